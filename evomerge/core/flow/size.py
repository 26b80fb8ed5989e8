"""How large a search space is."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from evomerge.core.digest import Scalar
from evomerge.core.flow.blueprint import FlowBlueprint
from evomerge.core.space import (
    GRID_STEPS,
    AllOf,
    Axis,
    Blueprint,
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


@dataclass(frozen=True, slots=True)
class SpaceSize:
    """How large a space is.

    Attributes:
        axes: Open choices.
        log10_points: Power of ten of the number of points on the grid, which may be too
            large to write out; None if they are not counted.
        stacks: Different stacks of layers, whatever their scales and merges; None if
            they are not counted. A space without data flow has one.
    """

    axes: int
    log10_points: float | None
    stacks: int | None

    @classmethod
    def of(cls, space: SearchSpace, blueprint: Blueprint) -> SpaceSize:
        """Measure a space."""
        stacks: int | None = 1
        if isinstance(blueprint, FlowBlueprint):
            stacks = blueprint.flow.n_stacks
        points = n_points(space)
        return cls(len(space.axes), points and math.log10(points), stacks)

    def __str__(self) -> str:
        parts = [f"{self.axes} {'axis' if self.axes == 1 else 'axes'}"]
        if self.log10_points is not None:
            parts.append(f"{_told(self.log10_points)} points")
        if self.stacks is None:
            parts.append("uncounted stacks")
        elif self.stacks != 1:
            parts.append(f"{_told(math.log10(self.stacks))} stacks")
        return ", ".join(parts)


def _told(log10: float) -> str:
    """Write a number out, or its order of magnitude."""
    if log10 < 6:
        return f"{round(10**log10)}"
    power = math.floor(log10)
    return f"{10 ** (log10 - power):.1f}e{power}"
