"""A child of two genomes."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from evomerge.core.digest import Scalar
from evomerge.core.space import Axis, ChoiceAxis
from evomerge.strategies.genetic.genomes import Genetics, Genome

ETA = 20.0
"""Distribution index of simulated binary crossover: the larger, the nearer parents."""


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
