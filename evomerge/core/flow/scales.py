"""Factors on the hidden state that enters a layer, as axes.

A scale is positive and searched on its logarithm: RMS norms ignore the size of the
hidden state, so a scale says how much of what was computed before counts beside what
the layer adds, and it can be folded into the weights of an ordinary model
(docs/study-files.md, "Data flow").
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from itertools import pairwise

from evomerge.core.flow.layer_pool import LayerPool, Step
from evomerge.core.space import GRID_STEPS, Axis, FloatAxis, When
from evomerge.core.trial import Point

Sites = tuple[tuple[Axis, ...], ...]
"""The axes of each place of a stack, first to last."""

Run = tuple[str, Sequence[Step]]
"""Layers in a row, and the axis of the scale at their beginning."""


class Scaling(StrEnum):
    """Which inputs have a scale of their own."""

    NONE = "none"
    LAYER = "layer"
    """One for each layer that runs."""
    EDGE = "edge"
    """One for each jump: wherever a layer does not follow the one before it in its
    own source."""
    FULL = "full"
    """One for each ordered pair of layers, whether they meet or not."""


@dataclass(frozen=True, slots=True)
class Scales:
    """Which scales a stack has, and their range.

    Attributes:
        kind: Which inputs have one.
        low: Smallest value, from above 0 to 1.
        high: Largest value, from 1 up.
    """

    kind: Scaling = Scaling.NONE
    low: float = math.exp(-1)
    high: float = math.e

    def axis(self, name: str, when: When = None) -> FloatAxis:
        """Return the axis of one scale; a search begins at 1."""
        return FloatAxis(name, self.low, self.high, 1.0, log=True, when=when)

    def read(self, name: str, point: Point) -> float:
        """Return a scale, 1 where its axis is not active.

        The grid is even in the logarithm and need not hold 1: what is nearer to 1
        than half a step is 1, so that layers that are left alone have no scale.
        """
        value = float(point.get(name, 1.0))
        half = math.log(self.high / self.low) / (2 * GRID_STEPS)
        return 1.0 if abs(math.log(value)) <= half else value

    def by_place(self, steps: Iterable[Step], point: Point) -> tuple[Step, ...]:
        """Scale every layer of a stack by its place, from 0."""
        return tuple(
            replace(step, scale=self.read(f"scale.{i}", point))
            for i, step in enumerate(steps)
        )


UNSCALED = Scales()


@dataclass(frozen=True, slots=True)
class Matrix:
    """A scale for every ordered pair of layers (2403.13187, W).

    Attributes:
        stock: The layers.
        scales: The range.
    """

    stock: LayerPool
    scales: Scales

    @property
    def sites(self) -> Sites:
        """The axes of each layer that is entered, in serial order."""
        layers = self.stock.layers
        return tuple(
            tuple(self.scales.axis(edge(one, other)) for one in layers)
            for other in layers
        )

    def scaled(self, steps: Sequence[Step], point: Point) -> tuple[Step, ...]:
        """Scale every layer by where its input comes from."""
        return rescaled(
            steps,
            (self.scales.read(edge(*pair), point) for pair in pairwise(steps)),
        )


def edge(one: Step, other: Step) -> str:
    """Name the axis of the jump from one layer to another."""
    return f"scale.{one.name}.{other.name}"


def rescaled(steps: Sequence[Step], factors: Iterable[float]) -> tuple[Step, ...]:
    """Scale every step but the first, which no layer comes before."""
    following = zip(steps[1:], factors, strict=True)
    return (*steps[:1], *(replace(step, scale=factor) for step, factor in following))


def joined(runs: Iterable[Run], scales: Scales, point: Point) -> tuple[Step, ...]:
    """Set runs on each other, each scaled at its beginning if that is a jump."""
    steps: list[Step] = []
    for name, run in runs:
        for step in run[:1]:
            jumps = bool(steps) and not step.follows(steps[-1])
            scale = scales.read(name, point) if jumps else 1.0
            steps.append(replace(step, scale=scale))
        steps += run[1:]
    return tuple(steps)
