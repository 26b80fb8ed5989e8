"""A knob that only matters beside a choice is searched and stated only there."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from evomerge.core.operators import CATALOGUE
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.recipes.settings import resolve
from evomerge.core.space import Condition
from evomerge.errors import SpecError
from evomerge.specs.planning.knobs import in_order
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.studies.study_file import read_study

Space = Callable[..., ResolvedStudy]


@pytest.fixture
def space(minimal: dict[str, Any], write: Callable[..., Path]) -> Space:
    """Read a study over this space."""

    def _space(**parts: Any) -> ResolvedStudy:
        minimal["strategy"] = {"kind": "tpe"}
        minimal["space"] = {"base": "base", **parts}
        return read_study(write(minimal))

    return _space


def knobs_of(recipe: Recipe) -> set[str]:
    operation = recipe.slots[0].operation("attn")
    return {name for name, _ in (*operation.shared, *operation.each)}


SHARED = {"per_input": "shared"}
STAGES = ("basis", "sparsify", "consensus", "reduce", "post")
WHOLE = {
    "operator": "staged",
    "knobs": {
        **dict.fromkeys(STAGES, "search"),
        "density": SHARED,
        "weight": SHARED,
        "gamma": SHARED,
        **dict.fromkeys(
            ("rescale", "lambda_t", "k", "zero_rule", "mean_over", "select_topk"),
            "search",
        ),
    },
}


def test_knobs_of_a_stage_are_axes_only_with_its_choices(space: Space) -> None:
    axes = {axis.name: axis.when for axis in space(**WHOLE).space.axes}
    assert list(axes)[:5] == list(STAGES)
    assert axes["sparsify"] is None
    by_density = ("magnitude", "bernoulli", "rank_bernoulli", "two_sided")
    assert axes["density"] == Condition("sparsify", by_density)
    assert axes["gamma"] == Condition("sparsify", ("two_sided",))
    assert axes["k"] == Condition("sparsify", ("tall",))
    assert axes["mean_over"] == Condition("post", ("flat",))
    assert axes["weight"] == Condition("reduce", ("sum", "mean", "max"))
    elected = ("sum_sign", "count_sign", "mean_sign")
    assert axes["zero_rule"] == Condition("consensus", elected)


def test_a_recipe_states_only_the_knobs_that_matter(space: Space) -> None:
    study = space(**WHOLE)
    plain = {
        **dict.fromkeys(("basis", "sparsify", "consensus", "post"), "none"),
        "reduce": "sum",
        "weight": 0.5,
    }
    recipe = study.blueprint.recipe(plain)
    assert knobs_of(recipe) == {*STAGES, "weight", "lambda"}
    crumbs = {**plain, "sparsify": "two_sided", "density": 0.3, "gamma": 0.1}
    crumbs["rescale"] = "none"
    study.space.check(crumbs)
    stated = knobs_of(study.blueprint.recipe(crumbs))
    extra = {"density", "gamma", "axis", "rescale", "rounding"}
    assert stated == {*STAGES, "weight", "lambda"} | extra


def test_every_point_of_the_space_of_stages_is_a_recipe_that_stands(
    space: Space,
) -> None:
    study = space(**WHOLE)
    rng = np.random.default_rng(0)
    seen = set()
    for _ in range(60):
        point = study.space.random(rng)
        study.space.check(point)
        recipe = study.blueprint.recipe(point)
        for _, slot in recipe.places():
            for _, operation in slot.roles:
                resolve(operation)
        stated = knobs_of(recipe)
        knobs = {knob.name: knob for knob in CATALOGUE["staged"].knobs}
        chosen = dict(recipe.slots[0].operation("attn").shared)
        assert stated == {n for n, k in knobs.items() if k.matters(chosen)}
        seen.add(frozenset(stated))
    assert len(seen) > 20


def test_a_decided_stage_opens_no_axis_of_another_choice(space: Space) -> None:
    knobs = {
        "sparsify": "bernoulli",
        "rescale": "search",
        "density": SHARED,
        "weight": 1.0,
    }
    study = space(operator="staged", knobs=knobs)
    assert [(a.name, a.when) for a in study.space.axes] == [
        ("density", None),
        ("rescale", None),
    ]


def test_a_knob_that_cannot_matter_is_a_mistake(space: Space) -> None:
    with pytest.raises(SpecError, match=r"only matters with sparsify: two_sided") as e:
        space(operator="staged", knobs={"gamma": 0.1, "weight": "search"})
    assert [p.where for p in e.value.problems] == ["study.yaml: space.knobs.gamma"]


def test_a_stage_that_varies_over_the_model_guards_nothing(space: Space) -> None:
    knobs = {
        "sparsify": {"choices": ["none", "magnitude"], "by": {"groups": 1}},
        "density": SHARED,
        "weight": 1.0,
    }
    study = space(operator="staged", knobs=knobs)
    axes = {axis.name: axis.when for axis in study.space.axes}
    assert axes["density"] is None
    layers = sorted(name for name in axes if name.startswith("sparsify"))
    assert len(layers) > 1
    point = {"density": 0.5, **dict.fromkeys(layers, "none"), layers[0]: "magnitude"}
    recipe = study.blueprint.recipe(point)
    stated = [slot.operation("attn").knobs("density") for slot in recipe.slots]
    assert stated[0] == (0.5, 0.5)
    assert set(stated[1:]) == {None}


def test_stages_and_named_operators_share_a_search(space: Space) -> None:
    study = space(
        operator=["ties", "staged"],
        knobs={"density": SHARED, "sparsify": "search", "weight": 1.0},
    )
    axes = {axis.name: axis.when for axis in study.space.axes}
    assert axes["sparsify"] == Condition("operator", ("staged",))
    assert axes["ties.density"] == Condition("operator", ("ties",))
    guarded = axes["staged.density"]
    assert guarded is not None
    assert guarded.axis == "sparsify"
    for seed in range(20):
        point = study.space.random(np.random.default_rng(seed))
        recipe = study.blueprint.recipe(point)
        assert recipe.slots[0].operation("attn").operator == point["operator"]


def test_a_knob_needed_by_one_operator_only_is_no_mistake(space: Space) -> None:
    study = space(
        operator=["ties", "staged"],
        knobs={"density": 0.4, "sparsify": "none", "weight": SHARED},
    )
    stated = {
        name: knobs_of(study.blueprint.recipe({"operator": name, "weight": 1.0}))
        for name in ("ties", "staged")
    }
    assert "density" in stated["ties"]
    assert "density" not in stated["staged"]


def test_the_inner_method_decides_which_knobs_of_knots_are_searched(
    space: Space,
) -> None:
    knobs = {"inner": "search", "density": SHARED, "rank_frac": "search"}
    study = space(operator="knots", knobs=knobs)
    axes = {axis.name: axis.when for axis in study.space.axes}
    assert axes["density"] == Condition("inner", ("ties", "dare_ties"))
    assert axes["rank_frac"] == Condition("inner", ("tsv",))


def test_all_knobs_of_all_operators_have_an_order() -> None:
    order = in_order(list(CATALOGUE.values()))
    for operator in CATALOGUE.values():
        for knob in operator.knobs:
            for name, _ in knob.only_with:
                assert order.index(name) < order.index(knob.name)
