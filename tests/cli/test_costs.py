"""Costs on the command line: checked, searched, listed and exported."""

import json
from pathlib import Path

import pytest
from support.study_files import simulated_study, write_study


@pytest.fixture
def study(here: Path, models: Path) -> Path:
    """A study that minds depth, and starts from half a model."""
    half = {"source": "math", "layers": [0, 1]}
    recipe = {"sources": {"math": str(models / "math")}, "stack": {"slices": [half]}}
    (here / "half.yaml").write_text(json.dumps(recipe))
    data = simulated_study(
        models,
        start=[{"name": "half", "recipe": "half.yaml"}],
        objectives=[{"measure": "one/acc"}, {"measure": "cost/layers"}],
        constraints=[{"measure": "cost/parameters", "at_most": 30_000}],
        strategy={"kind": "nsga2", "generation_size": 3},
    )
    return write_study(here / "mine.yaml", data)


def test_a_study_that_minds_costs_on_the_command_line(study, call):
    checked = call("check", study)
    assert "base 2, ja 2, math 2, uniform 2, half 1" in checked.out
    ran = call("run", study, "--in-process")
    assert ran.code == 0, ran.err
    shown = call("front", "mine").out.splitlines()
    assert shown[1].split() == ["trial", "label", "one/acc", "±", "cost/layers"]
    assert [line.split()[1] for line in shown[2:]] == ["half"]
    (row,) = json.loads(call("front", "mine", "--json").out)
    assert row["values"]["cost/layers"] == 1.0
    assert row["scores"]["cost/parameters"] == 25_696.0
    assert "cost/layers" in call("status", "mine").out
    told = call("export", "mine", "out").out
    assert "what it costs to run" in told
    (line,) = (x for x in told.splitlines() if x.startswith("half") and "25696" in x)
    assert line.split()[:3] == ["half", "1", "25696"]
    found = json.loads(call("export", "mine", "again", "--json").out)
    assert found["costs"][0]["layers"] == 1
    assert found["costs"][0]["tokens_per_second"] is None


def test_a_misspelt_cost_is_told_with_those_there_are(study, call):
    study.write_text(study.read_text().replace("cost/layers", "cost/depth"))
    ended = call("check", study)
    assert ended.code != 0
    assert "There is no cost 'depth'; there are layers, parameters" in ended.err
