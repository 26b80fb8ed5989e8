import math

from support.flows import blueprint_of, space_of

from evomerge.core.flow.donors import Donors
from evomerge.core.flow.layer_pool import LayerPool
from evomerge.core.flow.size import SpaceSize, n_points
from evomerge.core.space import (
    AllOf,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
)
from evomerge.core.trial import Repeats

TREE = SearchSpace(
    (
        ChoiceAxis("method", ("linear", "ties", "dare")),
        FloatAxis("density", 0.1, 0.3, grid=0.1, when=Condition("method", ("ties",))),
        IntAxis("n", 1, 4, when=Condition("method", ("ties", "dare"))),
        ChoiceAxis("rescale", (True, False), when=Condition("n", (2, 3))),
        IntAxis("free", -1, 0),
    )
)


def test_points_are_counted_as_they_can_be_listed() -> None:
    assert n_points(TREE) == len(list(TREE.points())) == 2 * (1 + 3 * 6 + 6)


def test_axes_without_a_grid_have_a_thousand_steps() -> None:
    space = SearchSpace((FloatAxis("a", 0.0, 1.0), FloatAxis("b", 0.1, 1.0, log=True)))
    assert n_points(space) == 1001**2


def test_an_axis_that_depends_on_two_is_not_counted() -> None:
    both = AllOf((Condition("a", (1,)), Condition("b", (1,))))
    space = SearchSpace(
        (IntAxis("a", 0, 1), IntAxis("b", 0, 1), IntAxis("c", 0, 1, when=both))
    )
    assert n_points(space) is None


def test_a_size_is_told_in_words() -> None:
    assert str(SpaceSize(1, math.log10(12), 1)) == "1 axis, 12 points"
    assert str(SpaceSize(3, math.log10(3) + 9000, 999_999)) == (
        "3 axes, 3.0e9000 points, 999999 stacks"
    )
    assert str(SpaceSize(3, None, None)) == "3 axes, uncounted stacks"


def test_repeats_are_candidates_met_before() -> None:
    found = Repeats.of(["a", "b", "a", "a"])
    assert (found.asked, found.distinct, found.share) == (4, 2, 0.5)
    assert str(found) == "2 of 4 (50.0%)"
    assert Repeats.of([]).share == 0.0


def test_only_data_flow_has_several_stacks() -> None:
    stock = LayerPool((("a", 3), ("b", 3)), 3, 3)
    flow = Donors(stock)
    size = SpaceSize.of(space_of(flow), blueprint_of(flow, stock))
    assert size == SpaceSize(1, math.log10(2), 2)
