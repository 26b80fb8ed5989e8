from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from evomerge.core.digest import digest
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.space import ChoiceAxis, Condition, FloatAxis
from evomerge.core.study import Direction, Measure, Sampling
from evomerge.errors import SpecError
from evomerge.specs.resolved import ResolvedStudy, meter_of
from evomerge.specs.studies.study_file import read_study
from evomerge.strategies.registry import problems

Write = Callable[..., Path]
N_LAYERS = 4


def axis_names(study: ResolvedStudy) -> list[str]:
    return [axis.name for axis in study.space.axes]


def searched(minimal: dict[str, Any], write: Write, **knobs: Any) -> ResolvedStudy:
    minimal["space"]["knobs"] = knobs
    return read_study(write(minimal))


def test_a_minimal_study_has_sensible_answers(
    minimal: dict[str, Any], write: Write
) -> None:
    study = read_study(write(minimal, "first.yaml"))
    assert study.name == "first"
    assert (study.frame, study.dtype, study.probe) == ("base", "float32", "ja")
    assert [b.label for b in study.baselines] == ["base", "ja", "math", "uniform"]
    assert [str(m) for m in study.objectives[0].measures] == ["add/acc"]
    assert study.workers is None
    assert study.n_blocks == sum(task.n_blocks for task in study.tasks) == 32
    assert {task.block_items for task in study.tasks} == {10}
    assert axis_names(study) == ["weight.ja", "weight.math"]


def test_axes_are_named_by_knob_expert_and_place(
    minimal: dict[str, Any], write: Write
) -> None:
    layers = searched(minimal, write, weight={"by": {"groups": 1, "ends": "own"}})
    places = ["embed", "L0", "L1", "L2", "L3", "head"]
    assert axis_names(layers) == [
        f"weight.{name}.{place}" for name in ("ja", "math") for place in places
    ]
    groups = searched(
        minimal, write, weight={"per_input": "shared", "by": {"groups": 3}}
    )
    assert axis_names(groups) == ["weight.L0-2", "weight.L3"]
    roles = searched(
        minimal, write, **{"lambda": {"by": {"depth": 2, "roles": "split"}}}
    )
    assert axis_names(roles) == [
        f"lambda.{role}.d{point}" for role in ("attn", "mlp", "other") for point in "01"
    ]


def test_one_expert_may_be_searched_while_another_is_fixed(
    minimal: dict[str, Any], write: Write
) -> None:
    study = searched(minimal, write, weight={"math": "search", "ja": [0.0, 1.0]})
    recipe = study.blueprint.recipe({"weight.math": 0.5})
    weights = [slot.operation("attn").knobs("weight") for slot in recipe.slots]
    assert weights == [
        (0.0, 0.5),
        (pytest.approx(1 / 3), 0.5),
        (pytest.approx(2 / 3), 0.5),
        (1.0, 0.5),
    ]


def test_layers_have_the_weights_of_their_own_axes(
    minimal: dict[str, Any], write: Write
) -> None:
    study = searched(minimal, write, weight={"by": {"groups": 1, "ends": "own"}})
    point = {name: i / 10 for i, name in enumerate(axis_names(study))}
    recipe = study.blueprint.recipe(point)
    assert recipe.embed.operation("embed").knobs("weight") == (0.0, 0.6)
    assert recipe.slots[2].operation("mlp").knobs("weight") == (0.3, 0.9)
    assert recipe.head.operation("head").knobs("weight") == (0.5, 1.1)


def test_an_open_operator_opens_only_the_axes_it_reads(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["space"] |= {
        "operator": ["task_arithmetic", "ties", "dare_linear"],
        "knobs": {
            "weight": {"low": 0.0, "high": 1.0},
            "density": {"per_input": "shared"},
        },
        "norm_policy": ["linear", "base"],
    }
    minimal["strategy"] = {"kind": "tpe"}
    study = read_study(write(minimal))
    axes = {axis.name: axis for axis in study.space.axes}
    assert list(axes) == [
        "operator",
        "norm_policy",
        "weight.ja",
        "weight.math",
        "ties.density",
        "dare_linear.density",
    ]
    assert axes["weight.ja"].when is None
    assert axes["ties.density"].when == Condition("operator", ("ties",))
    assert isinstance(axes["norm_policy"], ChoiceAxis)


def test_a_knob_with_one_range_is_one_axis_for_all_its_operators(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["space"] |= {
        "operator": ["task_arithmetic", "ties", "dare_linear"],
        "knobs": {
            "weight": {"low": 0.0, "high": 1.0},
            "density": {
                "low": 0.2,
                "high": 1.0,
                "start": 0.5,
                "log": False,
                "grid": 0.1,
                "per_input": "shared",
            },
        },
    }
    minimal["strategy"] = {"kind": "tpe"}
    axes = {axis.name: axis for axis in read_study(write(minimal)).space.axes}
    assert axes["density"].when == Condition("operator", ("ties", "dare_linear"))


def test_random_operators_take_the_seed_of_the_study(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["space"]["operator"] = "dare_linear"
    study = read_study(write(minimal | {"seed": 7}))
    recipe = study.blueprint.recipe(study.space.start())
    assert recipe.slots[0].operation("attn").knob("seed") == 7


def test_whole_and_real_numbers_give_one_digest(
    minimal: dict[str, Any], write: Write
) -> None:
    whole = searched(minimal, write, **{"lambda": 1, "weight": "search"})
    real = searched(minimal, write, **{"lambda": 1.0, "weight": "search"})
    points = whole.space.start(), real.space.start()
    assert (
        whole.blueprint.recipe(points[0]).digest
        == real.blueprint.recipe(points[1]).digest
    )


def test_baselines_come_in_grids_with_readable_labels(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["baselines"] = {
        "uniform": False,
        "others": [
            {"name": "ta", "operator": "task_arithmetic", "grid": {"lambda": [0.3, 1]}},
            {
                "name": "dare",
                "operator": "dare_ties",
                "knobs": {"weight": {"math": 0.8, "ja": 0.4}},
                "grid": {"lambda": [1.0, 1.5], "density": [0.5]},
            },
        ],
    }
    study = read_study(write(minimal))
    by_label = {b.label: b.recipe for b in study.baselines}
    assert list(by_label)[3:] == [
        "ta lambda=0.3",
        "ta lambda=1",
        "dare density=0.5 lambda=1",
        "dare density=0.5 lambda=1.5",
    ]
    operation = by_label["dare density=0.5 lambda=1.5"].slots[0].operation("mlp")
    assert operation.inputs == ("ja", "math")
    assert operation.knobs("weight") == (0.4, 0.8)
    assert operation.knob("lambda") == 1.5


def test_starts_name_as_much_of_a_point_as_they_like(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["space"]["knobs"]["weight"] = {
        "low": -0.5,
        "high": 2.0,
        "start": 0.25,
        "grid": 0.01,
        "by": {"groups": 2},
    }
    minimal["start"] = [
        {"name": "mine", "knobs": {"weight.math": 0.8, "weight.math.L2-3": 1.234}},
    ]
    mine = read_study(write(minimal)).baselines[-1]
    assert mine.label == "mine"
    assert mine.point == {
        "weight.ja.L0-1": 0.25,
        "weight.ja.L2-3": 0.25,
        "weight.math.L0-1": 0.8,
        "weight.math.L2-3": 1.23,
    }


def test_constraints_are_turned_the_way_their_bound_asks(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["constraints"] = [
        {"measure": "add", "drop_at_most": 0.02, "relative_to": "base"},
        {"measure": "*/tokens", "at_most": 9},
    ]
    drop, cost = read_study(write(minimal)).constraints
    assert drop.objective.direction is Direction.MAXIMIZE
    assert (drop.bound, drop.relative_to) == (-0.02, "base")
    assert cost.objective.direction is Direction.MINIMIZE
    assert cost.objective.measures == (Measure("add", "tokens"),)


def test_a_tasks_own_items_replace_those_of_the_study(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["items"] = {"search_fraction": 0.3, "limit": 90, "blocks": 4}
    minimal["tasks"] = {
        "plain": {"metric": "acc"},
        "listed": {"metric": "acc", "items": {"search": [0, 1], "report": ["2"]}},
    }
    listed, plain = read_study(write(minimal)).tasks
    assert (plain.search_fraction, plain.limit, plain.n_blocks) == (0.3, 90, 2)
    assert plain.block_items == 1  # as it is written
    assert (listed.search_items, listed.report_items) == (("0", "1"), ("2",))
    assert (listed.search_fraction, listed.limit) == (0.5, 90)


def test_sources_that_do_not_fit_are_refused_together_with_missing_ones(
    minimal: dict[str, Any], write: Write, zoo: Path
) -> None:
    minimal["sources"] |= {"math": str(zoo / "wide"), "gone": "nowhere"}
    with pytest.raises(SpecError) as caught:
        read_study(write(minimal))
    by_place = {p.where: p.message for p in caught.value.problems}
    assert "hidden size" in by_place["study.yaml: sources"]
    assert "does not exist" in by_place["study.yaml: sources.gone"]


def test_the_judge_of_strategies_is_heard_with_everything_else(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["space"]["operator"] = ["task_arithmetic", "ties"]
    minimal["strategy"] = {"kind": "cma", "options": {"sigmma": 0.2}}
    with pytest.raises(SpecError) as caught:
        read_study(write(minimal), judge=problems)
    assert ": strategy: cma has no option" in str(caught.value)
    assert "did you mean 'sigma'" in str(caught.value)
    assert "not categorical axes" in str(caught.value)


def test_more_control_points_than_layers_are_refused(
    minimal: dict[str, Any], write: Write
) -> None:
    with pytest.raises(SpecError, match=r"at most one control point per layer \(4\)"):
        searched(minimal, write, weight={"by": {"depth": 5}})


def _shuffled(value: Any, rng: np.random.Generator) -> Any:
    if isinstance(value, dict):
        keys = [list(value)[i] for i in rng.permutation(len(value))]
        return {key: _shuffled(value[key], rng) for key in keys}
    return value


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_the_configuration_ignores_the_order_of_keys(
    minimal: dict[str, Any], write: Write, seed: int
) -> None:
    minimal |= {
        "tasks": {
            "one": {"task": "simulated", "metric": "acc"},
            "two": {"task": "simulated", "metric": "acc"},
        },
        "objectives": [{"name": "both", "mean_of": {"two": 2, "one": 1}}],
    }
    plain = read_study(write(minimal))
    other = read_study(write(_shuffled(minimal, np.random.default_rng(seed))))
    assert digest(plain.config) == digest(other.config)
    assert plain.objectives == other.objectives
    assert [b.recipe for b in plain.baselines] == [b.recipe for b in other.baselines]


SPACES: list[dict[str, Any]] = [
    {
        "operator": "task_arithmetic",
        "base": "base",
        "knobs": {"weight": {"by": {"groups": 1, "ends": "own", "roles": "split"}}},
    },
    {
        "operator": ["task_arithmetic", "ties", "dare_ties"],
        "base": "base",
        "norm_policy": ["linear", "same", "base"],
        "knobs": {
            "weight": {"by": {"depth": 3}},
            "density": "search",
            "ties.consensus": "search",
            "normalize": {"by": {"groups": 2, "roles": "split"}},
        },
    },
    {
        "operator": ["slerp", "nuslerp", "linear"],
        "experts": ["math", "ja"],
        "knobs": {"t": {"by": {"depth": 2, "ends": "own"}}, "weight": 0.5},
    },
]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(which=st.sampled_from(SPACES), seed=st.integers(0, 2**31))
def test_every_point_is_a_valid_recipe(
    minimal: dict[str, Any], write: Write, which: dict[str, Any], seed: int
) -> None:
    from evomerge.core.recipes.settings import resolve as check

    study = read_study(write(minimal | {"space": which, "strategy": {"kind": "tpe"}}))
    point = study.space.random(np.random.default_rng(seed))
    study.space.check(point)
    recipe = study.blueprint.recipe(point)
    assert Recipe.from_json(recipe.to_json()).digest == recipe.digest
    assert len(recipe.slots) == N_LAYERS
    for _, slot in recipe.places():
        for _, operation in slot.roles:
            check(operation)


def test_starts_of_the_search_follow_the_operators_defaults(
    minimal: dict[str, Any], write: Write
) -> None:
    (axis, *_) = searched(minimal, write, weight="search").space.axes
    assert isinstance(axis, FloatAxis)
    assert axis.start == 1.0


def test_a_share_of_the_items_cuts_every_task_into_blocks_to_draw_from(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["tasks"] = {
        name: {"task": "simulated", "metric": "acc"} for name in "abcdefgh"
    }
    plain = read_study(write(minimal))
    assert (plain.sampling, {t.n_blocks for t in plain.tasks}) == (None, {4})
    minimal["items"] = {"share": 0.2}
    study = read_study(write(minimal))
    assert study.sampling == Sampling(0.2, 10)
    assert {(task.n_blocks, task.block_items) for task in study.tasks} == {(10, 10)}
    minimal["items"] = {"share": 0.2, "finalists": 4, "blocks": 16}
    few = read_study(write(minimal))
    assert few.sampling == Sampling(0.2, 4)
    assert {(task.n_blocks, task.block_items) for task in few.tasks} == {(2, 1)}


def test_a_share_of_one_is_a_study_that_says_nothing_of_it(
    minimal: dict[str, Any], write: Write
) -> None:
    plain = read_study(write(minimal))
    minimal["items"] = {"share": 1}
    whole = read_study(write(minimal))
    assert whole.config == plain.config
    assert whole.sampling is None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"items": {"share": 0}}, "items.share"),
        ({"items": {"share": 1.5}}, "items.share"),
        ({"items": {"finalists": 5}}, "expected a share below 1 beside finalists"),
        (
            {"items": {"share": 0.5}, "strategy": {"kind": "nsga2"}},
            "nsga2 compares candidates with those of earlier generations",
        ),
        (
            {
                "items": {"share": 0.5},
                "strategy": {"kind": "tpe"},
                "objectives": [
                    {"name": "a", "measure": "add/acc"},
                    {"name": "b", "measure": "add/tokens"},
                ],
            },
            "an items.share below 1 is for one objective, got 2",
        ),
    ],
)
def test_a_share_that_cannot_be_is_refused(
    minimal: dict[str, Any], write: Write, changes: dict[str, Any], said: str
) -> None:
    with pytest.raises(SpecError, match=said):
        read_study(write({**minimal, **changes}), judge=problems)


def test_a_share_beside_a_speed_is_refused(
    minimal: dict[str, Any], write: Write
) -> None:
    minimal["items"] = {"share": 0.5}
    minimal["constraints"] = [{"measure": "cost/tokens_per_second", "at_least": 10}]
    with pytest.raises(SpecError, match="expected no share beside a speed"):
        meter_of(read_study(write(minimal)))
