"""A hill climber: what every cleverer search of stacks must beat."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Told, scope
from evomerge.strategies.genetic.genomes import Genetics, Genome
from evomerge.strategies.genetic.survival import Member, losses_of
from evomerge.strategies.genetic.variation import DuplicateFilter, edited

POWER = 1.5
"""The chance of n edits falls as n to the minus this."""


class ClimbStrategy(GuardedStrategy):
    """A (1 + lambda) evolution strategy on edits, a fold.

    The parent is the start of the space at first. A generation is that many children of
    it, each a few edits away; the best child takes the parent's place if it is not
    worse, so the search walks over plains. The number of edits has a heavy tail (Doerr
    et al. 2017, arXiv 1703.03334): mostly one, now and then many, so that no hill holds
    it for ever.

    Feasible candidates are better than infeasible ones, which are better the less they
    miss; failed ones are never taken. With several objectives the better candidate is
    the one with the smaller mean rank over them, among the parent and its children: it
    climbs to one compromise and does not look for a front.
    """

    def __init__(self, setup: StrategySetup) -> None:
        super().__init__(setup)
        self._genetics = Genetics(setup.space)
        self._novelty = DuplicateFilter(self._genetics)
        places = sum(len(sites) for sites in self._genetics.strands)
        units = places + len(self._genetics.loose)
        most = int(setup.options["edits"] or max(units // 2, 1))
        chances = np.arange(1, most + 1, dtype=np.float64) ** -POWER
        self._chances = chances / chances.sum()
        self._genome = self._genetics.start()
        self._parent: Member | None = None
        self._asked: list[Genome] = []

    def _propose(self, generation: int) -> Proposal:
        """Propose a generation, the first time with the start."""
        rng = scope(self._seed, generation)
        drawn = [self._child(rng) for _ in range(self._size)]
        if generation == 1:
            drawn[0] = self._genome
        self._asked = [self._novelty.renewed(rng, genome) for genome in drawn]
        return Proposal(tuple(self._genetics.point(g) for g in self._asked))

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Take the best child if it is not worse."""
        found = [
            Member.of(genome, result)
            for genome, result in zip(self._asked, results, strict=False)
        ]
        children = [child for child in found if child]
        if not children:
            return
        parents = [self._parent] if self._parent else []
        keys = _keys([*children, *parents])
        # The first of equals is a child, as they stand before the parent.
        best = min(range(len(keys)), key=keys.__getitem__)
        self._parent = [*children, *parents][best]
        self._genome = self._parent.genome

    def _child(self, rng: np.random.Generator) -> Genome:
        genome = self._genome
        for _ in range(1 + int(rng.choice(len(self._chances), p=self._chances))):
            genome = edited(rng, self._genetics, genome)
        return genome


def _keys(members: Sequence[Member]) -> list[tuple[float, float]]:
    """Return what is compared: what is missed, then the mean rank of the losses."""
    losses = losses_of(members)
    fit = np.array([member.missed == 0.0 for member in members])
    smaller = (losses[None, fit] < losses[:, None]).sum(axis=(1, 2))
    equal = (losses[None, fit] == losses[:, None]).sum(axis=(1, 2))
    rank = np.where(fit, (smaller + equal / 2) / losses.shape[1], 0.0)
    return [(m.missed, float(r)) for m, r in zip(members, rank, strict=True)]
