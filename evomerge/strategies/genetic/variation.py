"""How genomes vary: mutation, crossover, and no child that was asked before.

A mutation is made where it shows: only to what exists at the genome's point. To a hill
climber it is all.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from evomerge.core.digest import Scalar
from evomerge.core.space import GRID_STEPS, Axis, ChoiceAxis, FloatAxis, IntAxis
from evomerge.strategies.genetic.genomes import (
    Genetics,
    Genome,
    Unit,
    can_move,
    fits,
    position,
)

SITE_SHARE = 0.5
"""Least share of the edits that go to stacks, where there are any."""

COPY, SWAP = 0.25, 0.5
"""A quarter of a stack's edits copies a neighbouring place, a quarter swaps two."""

REDRAW = 0.25
"""Share of the changes of a number that draw it anew; the others are steps."""

STEP = 0.1
"""Standard deviation of a step, as a share of the axis."""

ETA = 20.0
"""Distribution index of simulated binary crossover: the larger, the nearer parents."""

TRIES = 10
"""Edits made to get away from a point that was asked before."""


def edited(rng: np.random.Generator, genetics: Genetics, genome: Genome) -> Genome:
    """Change a genome in one place so that its point changes.

    On a strand: an axis of one place takes another value, or the place takes over what
    a neighbouring place has, or the two trade. Elsewhere an axis takes another value.

    Returns:
        The changed genome; the same one if nothing that exists can take another value.
    """
    here = genetics.point(genome)
    movable = {n for n in here if can_move(genetics.axes[n])}
    sites = [
        (sites, t)
        for sites in genetics.strands
        for t, site in enumerate(sites)
        if movable.intersection(site)
    ]
    loose = [name for name in genetics.loose if name in movable]
    if not sites and not loose:
        return genome
    share = max(SITE_SHARE, len(sites) / (len(sites) + len(loose))) if sites else 0.0
    if loose and rng.random() >= share:
        return _moved(rng, genetics, genome, loose)
    strand, t = sites[int(rng.integers(len(sites)))]
    kind = rng.random()
    other = t + 1 if rng.random() < 0.5 else t - 1
    if kind < SWAP and 0 <= other < len(strand):
        pair = strand[t], strand[other]
        changed = _taken(genetics, genome, *pair, swap=kind >= COPY)
        if genetics.point(changed) != here:
            return changed
    return _moved(rng, genetics, genome, [n for n in strand[t] if n in movable])


def _taken(
    genetics: Genetics, genome: Genome, to: Unit, origin: Unit, *, swap: bool
) -> Genome:
    """Let one place take over what another has, where it fits; or let them trade."""
    out = dict(genome)
    for a, b in zip(to, origin, strict=False):
        fit = fits(genetics.axes[a], genome[b])
        if fit and not swap:
            out[a] = genome[b]
        elif fit and fits(genetics.axes[b], genome[a]):
            out[a], out[b] = genome[b], genome[a]
    return out


def _moved(
    rng: np.random.Generator, genetics: Genetics, genome: Genome, names: Sequence[str]
) -> Genome:
    name = names[int(rng.integers(len(names)))]
    return {**genome, name: another(rng, genetics.axes[name], genome[name])}


def another(rng: np.random.Generator, axis: Axis, value: Scalar) -> Scalar:
    """Draw another value of an axis that has one, mostly a near one of a number."""
    if isinstance(axis, ChoiceAxis):
        here, n = position(axis, value), len(axis.choices)
        step = 1 + int(rng.integers(n - 1))
        return axis.choices[((here or 0) + step) % n]
    if isinstance(axis, IntAxis):
        return _another_whole(rng, axis, int(value))
    here_u = axis.unit(value)
    if rng.random() < REDRAW:
        unit = rng.random()
    else:  # reflected at the ends
        unit = 1.0 - abs(1.0 - abs(here_u + STEP * rng.standard_normal()))
    drawn = axis.value(unit)
    return drawn if drawn != value else _neighbour(rng, axis, value)


def _another_whole(rng: np.random.Generator, axis: IntAxis, value: int) -> int:
    n = axis.high - axis.low + 1
    if n > 2 and rng.random() >= REDRAW:
        step = int(rng.geometric(0.5)) * (1 if rng.random() < 0.5 else -1)
        if axis.low <= value + step <= axis.high:
            return value + step
    return axis.low + (value - axis.low + 1 + int(rng.integers(n - 1))) % n


def _neighbour(rng: np.random.Generator, axis: FloatAxis, value: Scalar) -> float:
    """Return the nearest other value on a random side, or on the one that has one."""
    unit, sign = axis.unit(value), 1.0 if rng.random() < 0.5 else -1.0
    width = 1.0 / GRID_STEPS
    while width < 2.0:
        for side in (sign, -sign):
            found = axis.value(unit + side * width)
            if found != value:
                return found
        width *= 2.0
    raise ValueError(f"Axis {axis.name!r} has no value but {value!r}.")


@dataclass(frozen=True, slots=True)
class Crossover:
    """How two parents mix.

    Strands are cut at the same places and spliced: the child has one stretch of places
    of the second parent, with all their axes, between two of the first. So what works
    together in neighbouring layers is inherited together.

    Attributes:
        blends: Numbers off the strands are drawn near the parents' (simulated binary
            crossover, Deb and Agrawal 1995), instead of taken from one.
        swapping: Chance that an axis off the strands is taken from the second parent.
    """

    blends: bool
    swapping: float

    def child(
        self,
        rng: np.random.Generator,
        genetics: Genetics,
        first: Genome,
        second: Genome,
    ) -> Genome:
        """Mix two genomes."""
        out = dict(first)
        for sites in genetics.strands:
            begin, end = np.sort(rng.integers(0, len(sites) + 1, 2))
            for site in sites[begin:end]:
                out.update({name: second[name] for name in site})
        for name in genetics.loose:
            axis = genetics.axes[name]
            if rng.random() >= self.swapping:
                continue
            if self.blends and not isinstance(axis, ChoiceAxis):
                out[name] = _between(rng, axis, first[name], second[name])
            else:
                out[name] = second[name]
        return out


def _between(rng: np.random.Generator, axis: Axis, a: Scalar, b: Scalar) -> Scalar:
    """Draw near one of two numbers, by how far apart they lie."""
    if isinstance(axis, ChoiceAxis) or a == b:
        return a
    u, power = rng.random(), 1.0 / (ETA + 1.0)
    beta = (2 * u) ** power if u <= 0.5 else (0.5 / (1.0 - u)) ** power
    middle, half = (
        0.5 * (axis.unit(a) + axis.unit(b)),
        0.5 * (axis.unit(b) - axis.unit(a)),
    )
    side = 1.0 if rng.random() < 0.5 else -1.0
    return axis.value(middle + side * beta * half)


class DuplicateFilter:
    """Remembers every point, and edits a genome until its point is a new one.

    Equal recipes get equal scores, so asking twice is a candidate wasted. A small space
    may be used up: after some edits a known point passes.
    """

    def __init__(self, genetics: Genetics) -> None:
        self._genetics = genetics
        self._known: set[tuple[Any, ...]] = set()

    def renewed(self, rng: np.random.Generator, genome: Genome) -> Genome:
        """Return the genome, edited while its point is known; note the new point."""
        for _ in range(TRIES):
            if self._key(genome) not in self._known:
                break
            genome = edited(rng, self._genetics, genome)
        self._known.add(self._key(genome))
        return genome

    def _key(self, genome: Genome) -> tuple[Any, ...]:
        return tuple(self._genetics.point(genome).items())
