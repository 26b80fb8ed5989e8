"""Which way is better: said by the study, or by what its tasks say of their metrics."""

import json
from pathlib import Path

import pytest
from support.study_files import simulated_study, without_lines, write_study

LESS = {"items": 20, "higher_is_better": False}


def loss(options=LESS, metric="loss"):
    return {
        "task": "simulated",
        "metric": metric,
        "options": {**options, "metric": metric},
    }


@pytest.fixture
def checked(call, here: Path, models: Path):
    """Check a study of these changes; return what was said."""

    def _checked(**changes):
        study = {"name": "mine", **changes}
        file = write_study(here / "mine.yaml", simulated_study(models, **study))
        return call("check", file, "--no-dry-run")

    return _checked


def test_what_the_task_says_is_minimised_everywhere(call, here, models) -> None:
    study = simulated_study(models, name="mine", tasks={"one": loss()})
    file = write_study(here / "mine.yaml", study)
    assert "lower is better; one/loss" in call("check", file, "--no-dry-run").out
    assert call("run", file, "--in-process").code == 0
    rows = json.loads(call("trials", "mine", "--json").out)
    least = min(row["values"]["score"] for row in rows)
    assert least < max(row["values"]["score"] for row in rows)
    (best,) = json.loads(call("status", "mine", "--json").out)["best"]
    assert (best["value"], best["direction"]) == (least, "minimize")
    front = json.loads(call("front", "mine", "--json").out)
    assert {row["values"]["score"] for row in front} == {least}
    assert "score: lower is better" in call("front", "mine").out
    assert "; lower is better)" in call("status", "mine").out


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"measure": "one"}, "higher is better; one/acc"),
        ({"measure": "one/tokens"}, "lower is better; one/tokens"),
        ({"measure": "one/truncated"}, "lower is better; one/truncated"),
        ({"measure": "two/loss"}, "lower is better; two/loss"),
        ({"mean_of": ["two", "one/tokens"]}, "lower is better; two/loss, one/tokens"),
        ({"measure": "cost/layers"}, "lower is better; cost/layers"),
        ({"measure": "cost/tokens_per_second"}, "higher is better; cost/tokens"),
        ({"measure": "one", "direction": "minimize"}, "lower is better; one/acc"),
    ],
)
def test_an_objective_goes_the_way_of_its_metric(checked, objective, says) -> None:
    one = {"task": "simulated", "metric": "acc", "options": {"items": 20, "tokens": 3}}
    ended = checked(
        tasks={"one": one, "two": loss()}, objectives=[{"name": "it", **objective}]
    )
    assert ended.code == 0, ended.err
    assert says in ended.out


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({}, "objectives: "),
        ({"objectives": [{"mean_of": ["one", "two"]}]}, "objectives.0.direction: "),
        ({"objectives": [{"measure": "*/loss"}]}, "objectives.0.measure: unknown met"),
        (
            {"objectives": [{"name": "x", "mean_of": {"one": 2, "one/tokens": 1}}]},
            "objectives.0.direction: ",
        ),
    ],
)
def test_measures_that_differ_need_a_direction(checked, changes, where) -> None:
    one = {"task": "simulated", "metric": "acc", "options": {"items": 20}}
    ended = checked(tasks={"one": one, "two": loss()}, **changes)
    assert ended.code == 2
    assert f"mine.yaml: {where}" in without_lines(ended.err)


def test_a_direction_against_the_metrics_own_is_a_warning(checked) -> None:
    objectives = [{"name": "it", "measure": "one", "direction": "maximize"}]
    ended = checked(tasks={"one": loss()}, objectives=objectives)
    assert ended.code == 0
    assert "objectives.0.direction: 'it' is to maximize, as written, but" in ended.err
    assert "less is better of one/loss" in ended.err
    assert "higher is better; one/loss" in ended.out


@pytest.mark.parametrize("named", [True, False])
def test_a_recorded_study_keeps_its_direction(call, here, models, named) -> None:
    """A file that left the direction open was recorded as one to maximise."""
    tasks = {"one": loss()}
    objectives = [{"name": "score", "measure": "one"}] if named else None
    study = simulated_study(models, name="mine", tasks=tasks, objectives=objectives)
    before = {**study, "tasks": {"one": loss({"items": 20})}}
    if named:
        before = {**study, "objectives": [{**objectives[0], "direction": "maximize"}]}
    else:
        before["tasks"]["one"]["options"].pop("higher_is_better", None)
    file = write_study(here / "mine.yaml", before)
    assert call("run", file, "--in-process").code == 0
    write_study(file, study)
    again = call("run", file, "--in-process")
    assert again.code == 2
    assert "direction" in again.err
    assert "minimize" in again.err
    assert call("resume", "mine", "--trials", 8, "--in-process").code == 0
    (best,) = json.loads(call("status", "mine", "--json").out)["best"]
    rows = json.loads(call("trials", "mine", "--json").out)
    assert best["direction"] == "maximize"
    assert best["value"] == max(row["values"]["score"] for row in rows)
