"""Every point of a small space: which, in which order, and when there are too many."""

import pytest

from evomerge.core.space import (
    AllOf,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
)
from evomerge.core.study import StrategySettings
from evomerge.core.trial import Point
from evomerge.errors import EvomergeError
from evomerge.strategies.registry import make_strategy, problems

SPACE = SearchSpace(
    (
        FloatAxis("x", 0.0, 1.0, grid=0.5),
        ChoiceAxis("kind", ("a", "b")),
        IntAxis("n", 1, 2, when=Condition("kind", ("b",))),
        FloatAxis("both", 0.0, 1.0, grid=1.0, when=AllOf((Condition("n", (2,)),))),
    )
)
ROWS = {"order": "rows"}


def proposed(space: SearchSpace, seed: int = 0, **how: object) -> list[Point]:
    """Ask until there is nothing left."""
    settings = StrategySettings("grid", 5, how.pop("options", ROWS))  # type: ignore[arg-type]
    strategy = make_strategy(
        settings,
        space,
        n_objectives=1,
        n_constraints=0,
        seed=seed,
        **how,  # type: ignore[arg-type]
    )
    found: list[Point] = []
    for generation in range(1, 100):
        proposal = strategy.ask(generation)
        found += proposal.points
        strategy.tell(generation, proposal, ())
        if not proposal.points:
            return found
    raise AssertionError("it never ends")


def test_every_point_comes_once_in_the_order_of_the_axes() -> None:
    of_x = [
        {"kind": "a"},
        {"kind": "b", "n": 1},
        {"kind": "b", "n": 2, "both": 0.0},
        {"kind": "b", "n": 2, "both": 1.0},
    ]
    expected = [{"x": x, **rest} for x in (0.0, 0.5, 1.0) for rest in of_x]
    assert proposed(SPACE) == expected
    for point in expected:
        SPACE.check(point)


def test_spread_is_the_same_points_in_an_order_of_the_seed() -> None:
    one, other = (proposed(SPACE, seed, options={}) for seed in (1, 2))
    assert one != other
    assert sorted(map(repr, one)) == sorted(map(repr, other))
    assert len(one) == 12


def test_of_points_that_are_one_merge_the_first_comes() -> None:
    found = proposed(SPACE, identity=lambda point: point["kind"])
    assert found == [{"x": 0.0, "kind": "a"}, {"x": 0.0, "kind": "b", "n": 1}]


@pytest.mark.parametrize(
    "wide",
    [
        FloatAxis("wide", 0.0, 1.0, grid=1e-6),
        IntAxis("wide", 0, 10**15),
    ],
)
def test_a_space_of_too_many_points_is_refused_and_its_widest_axes_named(
    wide: FloatAxis | IntAxis,
) -> None:
    settings = StrategySettings("grid")
    for space in (SearchSpace((wide,)), SearchSpace((*SPACE.axes, wide))):
        (said,) = problems(settings, space, 1)
        assert f"wide {wide.n_values}" in said
        assert "coarser 'grid'" in said
    with pytest.raises(EvomergeError, match="at most 100000"):
        make_strategy(
            settings, SearchSpace((wide,)), n_objectives=1, n_constraints=0, seed=1
        )
