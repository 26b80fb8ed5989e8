"""What a human writes: study files, evaluator files and recipe files.

YAML is read safely, checked by pydantic models that refuse unknown keys, and turned
into plain values; no pydantic object leaves this package except ``StudySpec``, on its
way to ``resolve``. A file's mistakes are collected and reported together, each with
file, line and key, what was expected, what came and the nearest known name.

What the database keeps of a study is written and read back here too, so a search can be
resumed with no file at hand.
"""
