"""NSGA-II and NSGA-III: a population that keeps what no other beats in everything."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Told, scope
from evomerge.strategies.genetic.genomes import Genetics, Genome
from evomerge.strategies.genetic.survival import Member
from evomerge.strategies.genetic.variation import Crossover, DuplicateFilter, edited

_ASK, _TELL = range(2)  # phases: last part of a random scope


class Survival(Protocol):
    """Which members go on, and who of two becomes a parent."""

    def survivors(
        self, rng: np.random.Generator, members: Sequence[Member], n: int
    ) -> list[Member]:
        """Choose at most ``n`` members."""

    def keys(self, members: Sequence[Member]) -> list[tuple[float, ...]]:
        """Return what tournaments compare; the smaller wins, the first of equals."""


class NsgaStrategy(GuardedStrategy):
    """Evolution of a population (Deb et al. 2002; Deb and Jain 2014), a fold.

    The first generation reaches from the start of the space to chance. Later ones are
    children: two parents won by tournaments, mixed, then edited. Parents and scored
    children compete for the places of the next generation; failed candidates have no
    place. A child that was asked before is edited until it is new, some times.

    Args:
        setup: What it is made of; the generation size is also that of the population.
        survival: What tells NSGA-II from NSGA-III.
    """

    def __init__(self, setup: StrategySetup, survival: Survival) -> None:
        super().__init__(setup)
        self._genetics = Genetics(setup.space)
        self._rate = float(setup.options["crossover_rate"])
        self._mutation: float | None = setup.options["mutation_rate"]
        self._crossover = Crossover(
            setup.options["crossover"] == "sbx", float(setup.options["swapping"])
        )
        self._survival = survival
        self._population: list[Member] = []
        self._asked: list[Genome] = []
        self._novelty = DuplicateFilter(self._genetics)

    def _propose(self, generation: int) -> Proposal:
        rng = scope(self._seed, generation, _ASK)
        if len(self._population) < 2:  # the first one, or hardly anything survived
            drawn = self._genetics.spread(rng, self._size)
        else:
            keys = self._survival.keys(self._population)
            drawn = [self._child(rng, keys) for _ in range(self._size)]
        self._asked = [self._novelty.renewed(rng, genome) for genome in drawn]
        return Proposal(tuple(self._genetics.point(g) for g in self._asked))

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Let parents and children compete."""
        children = [
            Member.of(genome, result)
            for genome, result in zip(self._asked, results, strict=False)
        ]
        members = [*self._population, *(child for child in children if child)]
        if members:
            rng = scope(self._seed, generation, _TELL)
            self._population = self._survival.survivors(rng, members, self._size)

    def _child(
        self, rng: np.random.Generator, keys: Sequence[tuple[float, ...]]
    ) -> Genome:
        first, second = (self._winner(rng, keys) for _ in range(2))
        genome = first.genome
        if rng.random() < self._rate:
            genome = self._crossover.child(rng, self._genetics, genome, second.genome)
        n_axes = max(len(self._genetics.point(genome)), 1)
        rate = 1.0 / n_axes if self._mutation is None else self._mutation
        for _ in range(int(rng.binomial(n_axes, rate))):
            genome = edited(rng, self._genetics, genome)
        return genome

    def _winner(
        self, rng: np.random.Generator, keys: Sequence[tuple[float, ...]]
    ) -> Member:
        a, b = (int(rng.integers(len(keys))) for _ in range(2))
        return self._population[b if keys[b] < keys[a] else a]
