"""A study that names a group of tasks: searched, resumed and exported as one task."""

import json
from pathlib import Path

import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from evomerge import api
from evomerge.api.resolving import setup_of
from evomerge.scoring.engines import open_engine
from evomerge.scoring.harness.adapter import EngineLM
from evomerge.scoring.items import item_id
from evomerge.store.sql import open_store
from evomerge.testing.models import tiny_model

TASK = {
    "dataset_path": "json",
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": "choices",
    "doc_to_target": "label",
    "target_delimiter": "",
    "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
}


def write_tasks(folder: Path) -> None:
    folder.mkdir()
    for number, (name, size) in enumerate({"few": 16, "many": 30}.items()):
        file = folder / f"{name}.jsonl"
        rows = [
            {
                "q": f"{name}{'abcdef'[i % 6]}{i}",
                "choices": ["a", "b", "c"],
                "label": (i * i + number) % 3,
            }
            for i in range(size)
        ]
        file.write_text("\n".join(map(json.dumps, rows)))
        files = {"data_files": {"test": str(file)}}
        keys = {"task": name, **TASK, "dataset_kwargs": files}
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(keys))
    group = {
        "group": "both",
        "task": ["few", {"group": "large", "task": ["many"]}],
        "aggregate_metric_list": [{"metric": "acc", "weight_by_size": False}],
    }
    (folder / "both.yaml").write_text(yaml.safe_dump(group))


def test_a_group_is_searched_and_judged_as_lm_eval_weighs_it(tmp_path: Path) -> None:
    for seed, name in enumerate(("a", "b")):
        tiny_model(tmp_path / name, seed=seed, n_layers=2)
    write_tasks(tmp_path / "tasks")
    study = {
        "name": "grouped",
        "sources": {"a": str(tmp_path / "a"), "b": str(tmp_path / "b")},
        "space": {"operator": "linear", "knobs": {"weight": "search"}},
        "tasks": {"g": {"task": "both", "include": "tasks", "metric": "acc"}},
        "constraints": [{"measure": "g.few/acc", "at_least": 0.0}],
        "engine": {"kind": "hf"},
        "strategy": {"kind": "random", "generation_size": 1},
        "budget": {"trials": 1},
    }
    file = tmp_path / "study.yaml"
    file.write_text(yaml.safe_dump(study))
    db = f"sqlite:///{tmp_path / 'db'}"
    where = api.Where(None, None, True, tmp_path / "cache")
    report = api.check(file, db=db, cache_dir=tmp_path / "cache", dry_run=False)
    assert sum(report.items["g"]) == 46
    prepared = api.prepare(file, db=db, where=where)
    api.search(prepared)
    rows = api.trials("grouped", db=db)
    parent = next(row for row in rows if row.label == "a")
    assert parent.values["score"] == parent.scores["g/acc"]

    store = open_store(db, create=False)
    described = store.tasks(store.study("grouped").id)
    store.close()
    manager = TaskManager(include_path=str(tmp_path / "tasks"), include_defaults=False)
    samples = {}
    for one in described:
        name = one.manifest.task.removeprefix("g.")
        docs = manager.load([name])["tasks"][name].test_docs()
        found = {i.id for i in one.manifest.items if i.role == "search"}
        samples[name] = [n for n, doc in enumerate(docs) if item_id(doc) in found]
    engine = open_engine(setup_of(prepared.study, tmp_path / "cache"))
    theirs = simple_evaluate(
        model=EngineLM(engine),  # which stands on source a
        tasks=["both"],
        task_manager=manager,
        samples=samples,
        bootstrap_iters=0,
    )
    engine.close()
    said = theirs["results"]
    assert parent.scores["g/acc"] == pytest.approx(said["both"]["acc,none"])
    assert parent.scores["g.many/acc"] == pytest.approx(said["many"]["acc,none"])

    api.search(api.take_up("grouped", db=db, where=where, budget=api.Budget(trials=2)))
    assert len(api.trials("grouped", db=db)) == len(rows) + 1
    assert api.audit(db=db).faults == ()
    best = api.status("grouped", db=db).best[0].trial
    done = api.export(
        "grouped",
        api.Export(best, tmp_path / "out"),
        db=db,
        cache_dir=tmp_path / "cache",
    )
    assert done.rivals[0].n_items == 46 - sum(map(len, samples.values()))
