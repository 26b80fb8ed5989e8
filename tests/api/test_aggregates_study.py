"""A study whose objective is no mean over items, from its file to its card."""

import json
from pathlib import Path
from typing import Any

import yaml

from evomerge import api
from evomerge.testing.models import tiny_model

LETTERS = {
    "task": "letters",
    "dataset_path": "json",
    "dataset_kwargs": {"data_files": {"test": "rows.jsonl"}},
    "output_type": "multiple_choice",
    "test_split": "test",
    "doc_to_text": "{{q}}",
    "doc_to_choice": ["a", "b"],
    "doc_to_target": "label",
    "metric_list": [
        {"metric": "acc"},
        {"metric": "mcc", "aggregation": "matthews_corrcoef"},
        {"metric": "f1", "aggregation": "f1"},
    ],
}


def test_it_is_searched_shown_and_tested_on_held_out_items(tmp_path: Path) -> None:
    for seed, name in enumerate("ab"):
        tiny_model(tmp_path / name, n_layers=1, seed=seed)
    (tmp_path / "tasks").mkdir()
    rows = [{"q": f"q{i}", "label": i * i % 3 % 2} for i in range(120)]
    (tmp_path / "tasks" / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)))
    (tmp_path / "tasks" / "letters.yaml").write_text(yaml.safe_dump(LETTERS))
    said: dict[str, Any] = {
        "name": "letters",
        "sources": {"a": "a", "b": "b"},
        "space": {"operator": "linear", "knobs": {"weight": "search"}},
        "tasks": {"letters": {"include": "tasks", "metric": "mcc"}},
        "constraints": [{"measure": "letters/f1", "at_least": 0.0}],
        "engine": {"kind": "simulated"},
        "strategy": {"kind": "random"},
        "budget": {"trials": 5},
    }
    file, db = tmp_path / "study.yaml", f"sqlite:///{tmp_path}/db"
    file.write_text(yaml.safe_dump(said))
    study = api.run(file, db=db, in_process=True)
    trials = study.trials()
    scores = [trial["letters/mcc"] for trial in trials]
    assert len(set(scores)) > 3
    assert all(-1.0 <= one <= 1.0 for one in scores)
    assert all(0.0 <= trial["letters/f1"] <= 1.0 for trial in trials)
    (best,) = study.front()
    assert best["letters/mcc"] == max(scores)
    done = study.export(tmp_path / "best")
    (told,) = done.rivals
    assert told.objective.direction == "maximize"
    value = told.chosen.value
    assert -1.0 <= value.low < value.value < value.high <= 1.0
    assert [bound.name for bound in done.bounds] == ["letters/f1"]
    assert not api.audit(db=db).faults
