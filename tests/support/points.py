"""Every point of a small search space, one by one, for checks by enumeration."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evomerge.core.digest import Scalar
from evomerge.core.space import Axis, ChoiceAxis, FloatAxis, SearchSpace


def all_points(space: SearchSpace) -> Iterator[dict[str, Scalar]]:
    """Yield every point; real axes must have a grid of their own."""
    yield from _continued({}, space.axes)


def _continued(
    point: dict[str, Scalar], axes: Sequence[Axis]
) -> Iterator[dict[str, Scalar]]:
    if not axes:
        yield point
        return
    axis, *rest = axes
    if axis.when is not None and not axis.when.holds(point):
        yield from _continued(point, rest)
        return
    for value in _values(axis):
        yield from _continued({**point, axis.name: value}, rest)


def _values(axis: Axis) -> Sequence[Scalar]:
    if isinstance(axis, ChoiceAxis):
        return axis.choices
    if not isinstance(axis, FloatAxis):
        return range(axis.low, axis.high + 1)
    assert axis.grid is not None, axis.name
    steps = round((axis.high - axis.low) / axis.grid)
    return [axis.value(step / steps) for step in range(steps + 1)]
