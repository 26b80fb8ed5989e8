import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.blueprint import (
    Coordinate,
    KnobPlan,
    MergeBlueprint,
    OperatorPlan,
    Schedule,
)
from evomerge.core.operators.catalogue import ROLES
from evomerge.core.recipes.recipe import Checkpoint, Recipe
from evomerge.core.roles import for_role
from evomerge.errors import SpaceError

N_LAYERS = 4
EXPERTS = ("math", "ja")
SOURCES = ("base", *EXPERTS)


def along(schedule: Schedule, n_layers: int) -> list[float]:
    return [float(schedule.at_layer(i, n_layers, {})) for i in range(n_layers)]


def knob(name: str, *schedules: Schedule, per_input: bool = False) -> KnobPlan:
    return KnobPlan(name, (("*", schedules),), per_input)


def blueprint(*plans: OperatorPlan, **changes: object) -> MergeBlueprint:
    parts: dict[str, object] = {
        "frame": "base",
        "dtype": "float32",
        "inputs": {name: Checkpoint(f"print-{name}") for name in SOURCES},
        "n_layers": N_LAYERS,
        "plans": plans,
        "operator": plans[0].operator,
        "norm_policy": "linear",
        "for_role": for_role,
    }
    return MergeBlueprint(**(parts | changes))  # type: ignore[arg-type]


def arithmetic(*weights: Schedule) -> OperatorPlan:
    return OperatorPlan(
        "task_arithmetic", EXPERTS, "base", (knob("weight", *weights, per_input=True),)
    )


def test_control_points_are_joined_by_straight_lines() -> None:
    assert along(Schedule((0.0, 0.5, 1.0)), 5) == [0.0, 0.25, 0.5, 0.75, 1.0]
    assert along(Schedule((0.0, 1.0, 0.0)), 4) == pytest.approx([0, 2 / 3, 2 / 3, 0])


def test_two_control_points_scale_layers_as_lines_does() -> None:
    lines = Schedule((0.3, 0.3 + 0.7))
    scales = [lines.at_layer(layer, 4, {}) for layer in range(4)]
    assert scales == pytest.approx([0.3, 0.533333, 0.766667, 1.0], abs=1e-6)


def test_a_model_of_one_layer_takes_the_first_control_point() -> None:
    assert along(Schedule((0.3, 0.9)), 1) == [0.3]


def test_one_term_serves_every_layer_and_both_ends() -> None:
    schedule = Schedule((0.7,))
    assert along(schedule, 3) == [0.7, 0.7, 0.7]
    assert (schedule.at_embed({}), schedule.at_head({})) == (0.7, 0.7)


def test_the_last_group_may_be_short() -> None:
    assert along(Schedule((1.0, 2.0), every=3), 5) == [1.0, 1.0, 1.0, 2.0, 2.0]


def test_ends_follow_the_nearest_layer_unless_they_have_their_own_value() -> None:
    nearest = Schedule((0.1, 0.9))
    assert (nearest.at_embed({}), nearest.at_head({})) == (0.1, 0.9)
    own = Schedule((0.1, 0.9), embed=0.5, head=Coordinate("head"))
    assert (own.at_embed({}), own.at_head({"head": 0.6})) == (0.5, 0.6)


def test_values_between_control_points_fall_on_the_grid_of_the_knob() -> None:
    found = along(Schedule((0.15, 0.95), grid=0.1), 7)
    steps = [(value - 0.15) / 0.1 for value in found]
    assert steps == pytest.approx([round(step) for step in steps])


def test_whole_numbers_stay_whole_between_control_points() -> None:
    schedule = Schedule((1, 4), whole=True)
    found = [schedule.at_layer(i, 6, {}) for i in range(6)]
    assert found == [1, 2, 2, 3, 3, 4]
    assert all(isinstance(value, int) for value in found)


@given(
    value=st.floats(-2, 2),
    n_points=st.integers(1, N_LAYERS),
    grid=st.sampled_from([None, 0.01, 0.3]),
)
def test_a_constant_schedule_is_the_global_knob(
    value: float, n_points: int, grid: float | None
) -> None:
    plain = blueprint(arithmetic(Schedule((value,)))).recipe({})
    depth = blueprint(arithmetic(Schedule((value,) * n_points, grid=grid))).recipe({})
    groups = blueprint(
        arithmetic(Schedule((value,) * N_LAYERS, every=1, embed=value, head=value))
    ).recipe({})
    each = blueprint(arithmetic(Schedule((value,)), Schedule((value,)))).recipe({})
    assert {r.digest for r in (plain, depth, groups, each)} == {plain.digest}


def test_equal_values_for_every_role_give_the_recipe_of_the_global_knob() -> None:
    one = (Schedule((0.3,)),)
    split = KnobPlan(
        "weight", (("attn", one), ("mlp", one), ("other", one)), per_input=True
    )
    plan = OperatorPlan("task_arithmetic", EXPERTS, "base", (split,))
    assert blueprint(plan).recipe({}) == blueprint(arithmetic(*one)).recipe({})


def test_roles_take_the_value_of_their_group() -> None:
    values = {"attn": 0.1, "mlp": 0.2, "other": 0.3}
    split = KnobPlan(
        "weight",
        tuple((group, (Schedule((value,)),)) for group, value in values.items()),
        per_input=True,
    )
    recipe = blueprint(
        OperatorPlan("task_arithmetic", EXPERTS, "base", (split,))
    ).recipe({})
    slot = recipe.slots[0]
    seen = {role: slot.operation(role).knobs("weight") for role in ROLES}
    assert seen["attn"] == (0.1, 0.1)
    assert seen["mlp"] == seen["expert"] == (0.2, 0.2)
    assert seen["norm"] == seen["bias"] == seen["router"] == (0.3, 0.3)
    assert recipe.embed.operation("embed").knobs("weight") == (0.3, 0.3)
    assert recipe.head.operation("norm").knobs("weight") == (0.3, 0.3)


def test_norms_follow_the_policy_the_point_chooses() -> None:
    plan = OperatorPlan(
        "ties",
        EXPERTS,
        "base",
        (knob("density", Schedule((0.5,)), per_input=True),),
    )
    chosen = blueprint(plan, norm_policy=Coordinate("norm_policy"))
    used = {
        policy: chosen.recipe({"norm_policy": policy}).slots[0].operation("norm")
        for policy in ("linear", "same", "base")
    }
    assert used["linear"].operator == "task_arithmetic"
    assert used["same"].operator == "ties"
    assert used["base"].inputs == ("base",)


def test_a_point_chooses_the_operator_and_only_its_inputs_are_named() -> None:
    arc = OperatorPlan("slerp", EXPERTS, None, (knob("t", Schedule((0.25,))),))
    chosen = blueprint(
        arc,
        arithmetic(Schedule((1.0,))),
        frame="math",
        operator=Coordinate("operator"),
    )
    slerp = chosen.recipe({"operator": "slerp"})
    assert dict(slerp.inputs).keys() == {"math", "ja"}
    sums = chosen.recipe({"operator": "task_arithmetic"})
    assert dict(sums.inputs).keys() == {"base", "math", "ja"}
    with pytest.raises(SpaceError, match="'ties' is not in this space"):
        chosen.recipe({"operator": "ties"})


def test_slot_i_merges_layer_i_of_every_input() -> None:
    recipe = blueprint(arithmetic(Schedule((1.0,)))).recipe({})
    for i, slot in enumerate(recipe.slots):
        assert {slot.layer_of(name) for name in SOURCES} == {i}


def test_a_point_without_a_needed_axis_is_refused_by_name() -> None:
    plan = arithmetic(Schedule((Coordinate("weight"),)))
    with pytest.raises(SpaceError, match=r"no axis 'weight'.*it has other"):
        blueprint(plan).recipe({"other": 1.0})


@given(st.lists(st.floats(-3, 3), min_size=8, max_size=8))
def test_every_recipe_survives_its_plain_form(values: list[float]) -> None:
    names = tuple(Coordinate(str(i)) for i in range(8))
    plan = arithmetic(Schedule(names[:4], every=1), Schedule(names[4:]))
    recipe = blueprint(plan).recipe({str(i): v for i, v in enumerate(values)})
    assert Recipe.from_json(recipe.to_json()).digest == recipe.digest
    weights = [slot.operation("attn").knobs("weight") for slot in recipe.slots]
    assert all(w is not None and all(map(math.isfinite, w)) for w in weights)
