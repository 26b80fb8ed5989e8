"""Genomes: a value for every axis, also for those that do not exist at its point.

What a choice switches off is kept, so that two parents always have the same axes, and
switching it on again brings back what it was.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from evomerge.core.digest import Scalar
from evomerge.core.space import Axis, ChoiceAxis, FloatAxis, SearchSpace
from evomerge.core.trial import Point

Genome = Mapping[str, Scalar]
"""A value for every axis of a space, by name."""

Unit = tuple[str, ...]
"""Axes that are changed together: those of one place of a strand, or one loose axis."""


class Genetics:
    """What evolution needs to know of a space.

    Attributes:
        space: The space.
        axes: Its axes by name.
        strands: For each strand, its places in order.
        loose: Names of the axes that lie on no strand.
    """

    def __init__(self, space: SearchSpace) -> None:
        self.space = space
        self.axes = {axis.name: axis for axis in space.axes}
        self.strands: tuple[tuple[Unit, ...], ...] = tuple(
            s.sites for s in space.strands
        )
        placed = {name for sites in self.strands for site in sites for name in site}
        self.loose = tuple(name for name in self.axes if name not in placed)
        self._bare = SearchSpace(tuple(replace(a, when=None) for a in space.axes))

    def start(self) -> Genome:
        """Return the genome a search begins at."""
        return self._bare.start()

    def random(self, rng: np.random.Generator) -> Genome:
        """Draw every axis uniformly on its own scale."""
        return self._bare.random(rng)

    def point(self, genome: Genome) -> Point:
        """Return what of a genome exists."""
        out: dict[str, Scalar] = {}
        for axis in self.space.axes:
            if axis.when is None or axis.when.holds(out):
                out[axis.name] = genome[axis.name]
        return out

    def spread(self, rng: np.random.Generator, n: int) -> list[Genome]:
        """Draw genomes from the start (the first) to chance (the last).

        Between them the share of axes that are redrawn grows evenly. A random stack of
        layers is hardly ever a model that works; its start is, and so are some of the
        stacks near it.
        """
        start = self.start()
        out: list[Genome] = []
        for i in range(n):
            drawn, keep = self.random(rng), rng.random(len(self.axes))
            share = i / max(n - 1, 1)
            out.append(
                {
                    name: drawn[name] if k < share else start[name]
                    for name, k in zip(self.axes, keep, strict=True)
                }
            )
        return out


def can_move(axis: Axis) -> bool:
    """Tell whether an axis has more than one value."""
    if isinstance(axis, ChoiceAxis):
        return len(axis.choices) > 1
    return axis.low < axis.high


def fits(axis: Axis, value: Scalar) -> bool:
    """Tell whether a value of another axis is one of this axis too."""
    if isinstance(axis, ChoiceAxis):
        return position(axis, value) is not None
    if isinstance(value, bool | str) or not axis.low <= value <= axis.high:
        return False
    if isinstance(axis, FloatAxis):
        return axis.value(axis.unit(value)) == value
    return isinstance(value, int)


def position(axis: ChoiceAxis, value: Scalar) -> int | None:
    """Return where a value stands among the choices; True is not 1."""
    for i, choice in enumerate(axis.choices):
        if type(choice) is type(value) and choice == value:
            return i
    return None
