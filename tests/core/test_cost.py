"""What a recipe costs, counted by hand."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import pytest

from evomerge.core.cost import (
    RecipeCosts,
    Speed,
    parse,
)
from evomerge.core.measures import Evidence, LayerFacts, MeasureSource, ModelFacts
from evomerge.core.meter import Meter, wanted_measures
from evomerge.core.recipes.recipe import (
    Checkpoint,
    Input,
    Nested,
    Operation,
    Recipe,
    Slot,
)
from evomerge.core.study import Constraint, Direction, Measure, Objective
from evomerge.errors import PluginError, RecipeError

FULL = LayerFacts(parameters=100, active=90, queries=8)
NEAR = LayerFacts(parameters=110, active=95, queries=8, window=16)
UNTIED = ModelFacts((FULL, NEAR), embed=50, head=40, ending=4, tied=False)
TIED = ModelFacts((FULL, NEAR), embed=50, head=50, ending=4, tied=True)


def lookup(source: Input) -> ModelFacts:
    assert isinstance(source, Checkpoint)
    return {"a": UNTIED, "b": UNTIED, "t": TIED}[source.fingerprint]


def alone(name: str, layer: int | None = None, scale: float = 1.0) -> Slot:
    roles = (("*", Operation("linear", (name,))),)
    return Slot(roles, () if layer is None else ((name, layer),), scale)


def stack(*slots: Slot, ends: str = "a", **inputs: Input) -> Recipe:
    given: dict[str, Input] = {name: Checkpoint(name) for name in "abt"} | inputs
    return Recipe(
        ends, "float32", tuple(given.items()), alone(ends), slots, alone(ends)
    )


def test_every_layer_that_runs_is_counted() -> None:
    recipe = stack(alone("a", 0), alone("a", 1), alone("a", 0))
    assert RecipeCosts.of(recipe, lookup).layers == 3


def test_a_layer_that_repeats_is_kept_once_whatever_its_scale() -> None:
    recipe = stack(alone("a", 0), alone("b", 0), alone("a", 0, 1.5), alone("a", 1))
    ends = 50 + 40 + 4
    assert RecipeCosts.of(recipe, lookup).parameters == ends + 100 + 100 + 110


def test_one_model_under_two_names_is_kept_once() -> None:
    recipe = stack(alone("a", 0), alone("c", 0), c=Checkpoint("a"))
    assert RecipeCosts.of(recipe, lookup).parameters == 50 + 40 + 4 + 100


def test_a_tied_head_is_kept_once_and_runs_all_the_same() -> None:
    costs = RecipeCosts.of(stack(alone("t", 0), ends="t"), lookup)
    assert costs.parameters == 50 + 4 + 100
    assert costs.flops(10) == 2 * 50 + 2 * 90 + 4 * 8 * 10


def test_a_head_merged_of_tied_and_untied_models_is_one_of_its_own() -> None:
    both = Slot((("*", Operation("linear", ("a", "t"))),))
    recipe = stack(alone("a", 0))
    recipe = Recipe("a", "float32", recipe.inputs, both, recipe.slots, both)
    assert RecipeCosts.of(recipe, lookup).parameters == 50 + 40 + 4 + 100


def test_every_run_of_a_layer_takes_operations_within_its_window() -> None:
    recipe = stack(alone("a", 0), alone("a", 1), alone("a", 1))
    head, full = 2 * 40, 2 * 90
    near = 2 * 95 + 4 * 8 * 16
    costs = RecipeCosts.of(recipe, lookup)
    assert costs.flops(100) == head + full + 4 * 8 * 100 + 2 * near
    assert costs.flops(16) == head + full + 4 * 8 * 16 + 2 * near
    assert costs.value("flops@100") == costs.flops(100)
    assert costs.value("flops") == costs.flops(1024)


def test_a_recipe_within_a_recipe_has_its_own_layers() -> None:
    within = stack(alone("a", 1), alone("a", 1), alone("b", 0))
    recipe = stack(alone("x", 2), alone("x", 0), x=Nested(within))
    costs = RecipeCosts.of(recipe, lookup)
    assert costs.parameters == 50 + 40 + 4 + 100 + 110
    with pytest.raises(RecipeError, match="'x': 3"):
        RecipeCosts.of(stack(alone("x", 3), x=Nested(within)), lookup)


def test_operations_that_a_configuration_leaves_open_are_refused() -> None:
    open_ = ModelFacts((LayerFacts(100, None, 8),), 50, 40, 4, tied=False)
    costs = RecipeCosts.of(stack(alone("a", 0)), lambda source: open_)
    assert costs.parameters == 50 + 40 + 4 + 100
    with pytest.raises(RecipeError, match=r"layer 0 are not known.*cost/flops"):
        costs.flops()


def cost(metric: str) -> Measure:
    return Measure("cost", metric, by_item=False)


def test_a_meter_tells_what_is_asked_for() -> None:
    recipe = stack(alone("a", 0))
    speed = cost("tokens_per_second")
    meter = Meter((cost("flops@8"), cost("layers"), speed), lookup)
    assert meter.is_timed
    fixed = {"cost/flops@8": 2 * 40 + 2 * 90 + 4 * 8 * 8, "cost/layers": 1.0}
    assert meter.values(Evidence(recipe, lookup)) == fixed
    timed = Evidence(recipe, lookup, tokens_per_second=7.0)
    assert meter.values(timed) == fixed | {"cost/tokens_per_second": 7.0}
    assert Meter((speed,), lookup).values(Evidence(recipe, lookup)) == {}
    assert not Meter((cost("layers"),), lookup).is_timed


@pytest.mark.parametrize(
    "metric", ["", "layer", "layers@3", "flops@", "flops@0", "flops@x", "flops@-1"]
)
def test_a_cost_there_is_not_is_refused(metric: str) -> None:
    with pytest.raises(RecipeError, match="There is no cost"):
        parse(metric)


def test_goals_tell_what_is_wanted_of_whole_candidates() -> None:
    def goal(measure: Measure) -> Objective:
        return Objective("x", Direction.MINIMIZE, (measure,), (1.0,))

    objectives = (goal(Measure("math", "acc")), goal(cost("layers")))
    assert [one.by_item for one in objectives] == [True, False]
    bounds = (Constraint(goal(cost("flops@9")), 3.0),)
    assert wanted_measures(objectives, bounds) == (cost("flops@9"), cost("layers"))


def test_a_source_that_gives_no_number_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    class Lost(MeasureSource):
        metrics: ClassVar[Mapping[str, bool | None]] = {"way": False, "time": False}

        def values(
            self, metrics: Sequence[str], found: Evidence
        ) -> Mapping[str, float]:
            return {"time": float("nan")}

    monkeypatch.setattr("evomerge.core.meter.SOURCES", {"lost": Lost()})
    recipe = stack(alone("a", 0))
    for metric, says in (("way", "KeyError: 'way'"), ("time", "'time', got nan")):
        meter = Meter((Measure("lost", metric, by_item=False),), lookup)
        with pytest.raises(PluginError, match=f"measures of 'lost'.*{says}"):
            meter.values(Evidence(recipe, lookup))


def test_speed_is_tokens_over_the_seconds_of_the_same_blocks() -> None:
    assert Speed().plus(30, 2.0).plus(10, 3.0).tokens_per_second == 8.0
    assert Speed().tokens_per_second == 0.0
