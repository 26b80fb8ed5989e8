"""Layers of sources and merged layers, searched, resumed and exported."""

import json
from pathlib import Path

import pytest
from support.commands import Commands
from support.study_files import write_study

from evomerge import api
from evomerge.testing.models import tiny_model

pytestmark = pytest.mark.slow
NAMES = ("base", "a", "b", "c")


def test_both_spaces_are_searched_resumed_and_exported(
    commands: Commands, tmp_path: Path
) -> None:
    for seed, (name, n_layers) in enumerate(
        {"base": 2, "a": 2, "b": 2, "c": 3}.items()
    ):
        tiny_model(tmp_path / name, seed=seed, n_layers=n_layers)
    study = {
        "sources": {name: name for name in NAMES},
        "space": {
            "operator": "task_arithmetic",
            "base": "base",
            "experts": ["a", "b"],
            "knobs": {"weight": "search"},
            "flow": {
                "kind": "slices",
                "sources": ["merge", "a", "c"],
                "scales": "edge",
            },
        },
        "tasks": {"one": {"task": "simulated", "metric": "acc"}},
        "strategy": {"kind": "nsga2", "generation_size": 4},
        "start": [
            {"name": "mine", "knobs": {"slice.1.layers": 1, "slice.1.source": "c"}}
        ],
        "engine": {"kind": "hf"},
        "workers": 1,
        "budget": {"trials": 4},
    }
    write_study(tmp_path / "flow.yaml", study)
    db, cache = f"sqlite:///{tmp_path}/flow.db", tmp_path / "cache"
    checked = api.check(tmp_path / "flow.yaml", db=db, cache_dir=cache, dry_run=False)
    assert checked.size.stacks == 1 + 7 + 7**2
    assert checked.repeats.asked == 100
    commands.call(tmp_path, "run", "flow.yaml", "--in-process", "--db", db)
    commands.call(tmp_path, "resume", "flow", "--trials", 6, "--in-process", "--db", db)
    rows = api.trials("flow", db=db)
    assert [row.state for row in rows] == ["scored"] * 12
    assert [row.label for row in rows if row.label] == [*NAMES, "uniform", "mine"]
    recipes = [row.recipe for row in rows if row.label is None]
    repeats = api.status("flow", db=db).repeats
    assert (repeats.asked, repeats.distinct) == (6, len(set(recipes)))
    wanted = api.Export(5, tmp_path / "out", is_scored=False)
    api.export("flow", wanted, db=db, cache_dir=cache)
    recipe = json.loads((tmp_path / "out" / "recipe.json").read_text())
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == len(recipe["slots"])
    assert {"c"} in [set(slot["layers"]) for slot in recipe["slots"]]
