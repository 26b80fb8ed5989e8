"""Studies that mind what a model costs: searched, resumed, checked and exported."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from support.study_files import simulated_study, write_models, write_study

import evomerge.api as api
from evomerge.checkpoints import read_model
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.errors import SpecError
from evomerge.store.sql import open_store

# The models have 2 layers of 7 * 32 * 32 + 2 * 32 entries, 288 tokens and hidden 32.
LAYER = 7 * 32 * 32 + 2 * 32
ENDS = 2 * 288 * 32 + 32


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def stack(models: Path, *layers: int) -> Recipe:
    """Return layers of ``math`` in some order."""
    roles = (("*", Operation("linear", ("math",))),)
    slots = tuple(Slot(roles, (("math", layer),)) for layer in layers)
    source = Checkpoint(read_model(models / "math").fingerprint)
    ends = Slot(roles)
    return Recipe("math", "float32", (("math", source),), ends, slots, ends)


STACKS: Mapping[str, tuple[int, ...]] = {
    "short": (0,),
    "twice": (0, 1, 0, 1, 1),
    "thrice": (0, 1, 0, 1, 1),
}


class Searched:
    """A study over three models and three stacks, in a database of its own."""

    def __init__(self, tmp_path: Path, models: Path) -> None:
        self.folder, self.models = tmp_path, models
        self.db = f"sqlite:///{tmp_path / 'mine.db'}"
        self.where = api.Where(1, None, True, cache_dir=tmp_path / "cache")

    def file(self, objectives: Any, **changes: Any) -> Path:
        start = []
        for name, layers in STACKS.items():
            recipe = self.folder / f"{name}.json"
            recipe.write_text(json.dumps(stack(self.models, *layers).to_json()))
            start.append({"name": name, "recipe": str(recipe)})
        study = simulated_study(
            self.models, name="mine", start=start, objectives=objectives, **changes
        )
        return write_study(self.folder / "mine.yaml", study)

    def search(self, objectives: Any, **changes: Any) -> None:
        file = self.file(objectives, **changes)
        api.search(api.prepare(file, db=self.db, where=self.where))

    def rows(self) -> tuple[api.TrialRow, ...]:
        return api.trials("mine", db=self.db)

    def labelled(self) -> dict[str, api.TrialRow]:
        return {row.label: row for row in self.rows() if row.label}


@pytest.fixture
def searched(tmp_path: Path, models: Path) -> Searched:
    return Searched(tmp_path, models)


def faults(db: str) -> list[str]:
    """Return what is wrong with a database."""
    store = open_store(db)
    try:
        return [str(fault) for fault in store.check()]
    finally:
        store.close()


FLOPS = [
    {"measure": "one/acc"},
    {"measure": "cost/flops@10", "name": "flops"},
    {"measure": "cost/parameters"},
]
NSGA2 = {"kind": "nsga2", "generation_size": 4}


def test_costs_are_objectives_that_are_minimised(searched: Searched) -> None:
    searched.search(FLOPS, strategy=NSGA2)
    rows = searched.labelled()
    per_layer = 2 * 7 * 32 * 32 + 4 * 32 * 10
    assert rows["short"].values["flops"] == 2 * 288 * 32 + per_layer
    assert rows["twice"].values["flops"] == 2 * 288 * 32 + 5 * per_layer
    assert rows["short"].values["cost/parameters"] == ENDS + LAYER
    assert rows["twice"].values["cost/parameters"] == ENDS + 2 * LAYER
    assert rows["uniform"].scores["cost/parameters"] == ENDS + 2 * LAYER
    front = {row.number for row in api.front("mine", db=searched.db)}
    assert rows["short"].number in front
    best = {b.objective: b.label for b in api.status("mine", db=searched.db).best}
    assert (best["flops"], best["cost/parameters"]) == ("short", "short")


@pytest.mark.parametrize(
    ("bound", "allowed"),
    [
        ({"at_most": 2}, 2),
        ({"rise_at_most": 0, "relative_to": "math"}, 2),
        ({"rise_at_most": 3, "relative_to": "base"}, 5),
    ],
)
def test_costs_are_bounds(
    searched: Searched, bound: dict[str, Any], allowed: int
) -> None:
    objectives = [{"measure": "cost/layers", "direction": "maximize"}]
    constraints = [{"measure": "cost/layers", **bound}]
    searched.search(objectives, constraints=constraints)
    front = api.front("mine", db=searched.db)
    assert {row.values["cost/layers"] for row in front} == {allowed}


def test_a_study_cut_in_two_is_the_one_searched_at_once(
    tmp_path: Path, models: Path
) -> None:
    once, twice = (Searched(tmp_path / name, models) for name in ("once", "twice"))
    for one in (once, twice):
        one.folder.mkdir()
    once.search(FLOPS, strategy=NSGA2, budget={"trials": 8})
    twice.search(FLOPS, strategy=NSGA2, budget={"trials": 3})
    again = api.take_up(
        "mine", db=twice.db, where=twice.where, budget=api.Budget(trials=8)
    )
    api.search(again)
    expected, found = once.rows(), twice.rows()
    assert [(r.recipe, r.scores) for r in found] == [
        (r.recipe, r.scores) for r in expected
    ]
    assert not faults(twice.db)


SPEED = [{"measure": "one/acc"}, {"measure": "cost/tokens_per_second"}]
TASKS = {
    name: {"task": "simulated", "metric": "acc", "options": {"items": 20, "tokens": 7}}
    for name in ("one", "two")
}


FLOW = {
    "operator": "task_arithmetic",
    "base": "base",
    "knobs": {"weight": "search"},
    "flow": {"kind": "gates", "sources": ["merge", "math"], "scales": "edge"},
}


def test_what_is_found_among_stacks_keeps_its_bounds_and_can_be_written(
    searched: Searched,
) -> None:
    constraints = [{"measure": "cost/layers", "at_most": 3}]
    strategy = {"kind": "nsga2", "generation_size": 8}
    changes = {"space": FLOW, "strategy": strategy, "budget": {"trials": 24}}
    searched.search(FLOPS, constraints=constraints, **changes)
    rows = {row.number: row for row in searched.rows()}
    depths = {row.scores["cost/layers"] for row in rows.values()}
    assert min(depths) < 2 < 3 < max(depths)
    front = {row.number for row in api.front("mine", db=searched.db)}
    assert all(rows[number].scores["cost/layers"] <= 3 for number in front)
    store = open_store(searched.db)
    trials = store.trials(store.study("mine").id)
    store.close()
    scaled = [
        t for t in trials if any(s.scale != 1.0 for s in t.candidate.recipe.slots)
    ]
    assert scaled
    for trial in scaled[:3]:
        out = searched.folder / f"out{trial.number}"
        wanted = api.Export(trial.number, out, is_scored=False)
        done = api.export(
            "mine", wanted, db=searched.db, cache_dir=searched.where.cache_dir
        )
        assert read_model(out).n_layers == done.costs[0].layers
        assert trial.scores is not None
        assert trial.scores["cost/parameters"] == done.costs[0].parameters
        held = sum(math.prod(i.shape) for i in read_model(out).tensors.values())
        assert held == ENDS + done.costs[0].layers * LAYER


def test_speed_is_measured_once_for_each_recipe_and_kept(searched: Searched) -> None:
    searched.search(SPEED, strategy=NSGA2, tasks=TASKS, budget={"trials": 2})
    rows = searched.labelled()
    speeds = {name: row.values["cost/tokens_per_second"] for name, row in rows.items()}
    assert all(speed > 0 for speed in speeds.values())
    assert len(set(speeds.values())) > 1
    assert speeds["twice"] == speeds["thrice"]
    assert rows["thrice"].reused
    assert not faults(searched.db)


def test_speed_is_measured_even_where_every_answer_is_known(
    searched: Searched,
) -> None:
    searched.search([{"measure": "one/acc"}], tasks=TASKS, budget={"trials": 1})
    other = json.loads(searched.file(SPEED, tasks=TASKS).read_text()) | {"name": "two"}
    other |= {"strategy": NSGA2, "budget": {"trials": 1}}
    file = write_study(searched.folder / "two.yaml", other)
    api.search(api.prepare(file, db=searched.db, where=searched.where))
    rows = api.trials("two", db=searched.db)
    assert all(row.scores["cost/tokens_per_second"] > 0 for row in rows)
    answers = {row.label: row.scores["one/acc"] for row in rows if row.label}
    assert answers == {
        label: row.scores["one/acc"] for label, row in searched.labelled().items()
    }


def test_speed_without_any_text_is_refused(searched: Searched) -> None:
    with pytest.raises(SpecError, match="expected a task that generates text"):
        searched.search(SPEED, strategy=NSGA2)


def test_the_check_tells_what_baselines_cost(searched: Searched) -> None:
    file = searched.file(FLOPS, strategy=NSGA2)
    found = api.check(
        file, db=searched.db, cache_dir=searched.where.cache_dir, dry_run=False
    )
    assert found.costs["cost/parameters"]["twice"] == ENDS + 2 * LAYER
    assert f"short {ENDS + LAYER}," in dict(found.rows())["cost/parameters"]


@pytest.mark.parametrize(
    ("objective", "says"),
    [
        ({"measure": "cost/layer"}, "There is no cost 'layer'"),
        ({"measure": "cost"}, "There is no cost ''"),
        ({"measure": "cost/layers@9"}, "There is no cost 'layers@9'"),
        ({"mean_of": ["one/acc", "cost/layers"]}, "expected measures of tasks, got a"),
    ],
)
def test_a_cost_that_cannot_be_told_is_refused(
    searched: Searched, objective: Mapping[str, Any], says: str
) -> None:
    with pytest.raises(SpecError, match=says):
        api.prepare(searched.file([objective]), db=searched.db, where=searched.where)


def test_a_task_cannot_be_called_cost(searched: Searched) -> None:
    tasks = {"cost": TASKS["one"]}
    file = searched.file([{"measure": "cost/layers"}], tasks=tasks)
    with pytest.raises(SpecError, match=r"tasks\.cost: expected another name"):
        api.prepare(file, db=searched.db, where=searched.where)


def test_the_card_tells_costs_beside_those_of_baselines(searched: Searched) -> None:
    searched.search(FLOPS, strategy=NSGA2)
    number = searched.labelled()["short"].number
    wanted = api.Export(number, searched.folder / "out")
    done = api.export(
        "mine", wanted, db=searched.db, cache_dir=searched.where.cache_dir
    )
    assert [table.objective.name for table in done.rivals] == ["one/acc"]
    mine, *others = done.costs
    assert (mine.label, mine.layers, mine.parameters) == ("short", 1, ENDS + LAYER)
    assert {row.label for row in others} >= {"base", "math", "uniform"}
    card = (searched.folder / "out" / "README.md").read_text()
    assert "## What it costs to run" in card
    assert f"| **short** (this model) | 1 | {ENDS + LAYER:,} |" in card


def test_where_only_costs_are_improved_held_out_items_show_the_bounds(
    searched: Searched,
) -> None:
    constraints = [{"measure": "one/acc", "at_least": 0.0}]
    searched.search([{"measure": "cost/layers"}], constraints=constraints)
    wanted = api.Export(None, searched.folder / "out")
    done = api.export(
        "mine", wanted, db=searched.db, cache_dir=searched.where.cache_dir
    )
    assert [table.objective.name for table in done.rivals] == ["one/acc"]
    assert done.selected == {"cost/layers": 1.0}
