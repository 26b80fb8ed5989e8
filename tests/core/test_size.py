from evomerge.core.size import n_points
from evomerge.core.space import (
    AllOf,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
)
from evomerge.testing.points import all_points

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
    assert n_points(TREE) == len(list(all_points(TREE))) == 2 * (1 + 3 * 6 + 6)


def test_axes_without_a_grid_have_a_thousand_steps() -> None:
    space = SearchSpace((FloatAxis("a", 0.0, 1.0), FloatAxis("b", 0.1, 1.0, log=True)))
    assert n_points(space) == 1001**2


def test_an_axis_that_depends_on_two_is_not_counted() -> None:
    both = AllOf((Condition("a", (1,)), Condition("b", (1,))))
    space = SearchSpace(
        (IntAxis("a", 0, 1), IntAxis("b", 0, 1), IntAxis("c", 0, 1, when=both))
    )
    assert n_points(space) is None
