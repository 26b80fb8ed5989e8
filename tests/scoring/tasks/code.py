def keep_all(docs):
    return docs


def fall_over(doc, results):
    return {"acc": doc["no such field"]}
