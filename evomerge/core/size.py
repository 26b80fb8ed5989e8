"""How many points a search space has."""

from __future__ import annotations

import math
from collections.abc import Sequence

from evomerge.core.digest import Scalar
from evomerge.core.space import (
    GRID_STEPS,
    AllOf,
    Axis,
    ChoiceAxis,
    Condition,
    IntAxis,
    SearchSpace,
)


def n_points(space: SearchSpace) -> int | None:
    """Count the points of a space on its grid, exactly.

    Returns:
        None where an axis depends on several others at once: such points are not
        counted.
    """
    children: dict[str, list[tuple[Axis, Condition]]] = {a.name: [] for a in space.axes}
    roots: list[Axis] = []
    for axis in space.axes:
        needs = axis.when.conditions if isinstance(axis.when, AllOf) else (axis.when,)
        if len(needs) > 1:
            return None
        for condition in needs:
            if condition is None:
                roots.append(axis)
            else:
                children[condition.axis].append((axis, condition))
    below: dict[str, int] = {}
    for axis in reversed(space.axes):  # those that depend on an axis stand behind it
        below[axis.name] = _with_those_below(axis, children[axis.name], below)
    return math.prod(below[axis.name] for axis in roots)


def n_values(axis: Axis) -> int:
    """Return how many values an axis has on its grid."""
    if isinstance(axis, ChoiceAxis):
        return len(axis.choices)
    if isinstance(axis, IntAxis):
        return axis.high - axis.low + 1
    if axis.log or axis.grid is None:
        return GRID_STEPS + 1
    return round((axis.high - axis.low) / axis.grid) + 1


def _with_those_below(
    axis: Axis, children: Sequence[tuple[Axis, Condition]], below: dict[str, int]
) -> int:
    named: set[Scalar] = {v for _, condition in children for v in condition.values}
    if isinstance(axis, ChoiceAxis):
        named &= set(axis.choices)
    return (
        n_values(axis)
        - len(named)
        + sum(
            math.prod(below[c.name] for c, when in children if value in when.values)
            for value in named
        )
    )
