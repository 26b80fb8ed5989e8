"""What was asked before, and how to get away from it."""

from __future__ import annotations

from typing import Any

import numpy as np

from evomerge.strategies.genetic.genomes import Genetics, Genome
from evomerge.strategies.genetic.mutations import edited

TRIES = 10
"""Edits made to get away from a point that was asked before."""


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
