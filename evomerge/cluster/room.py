"""How many workers a pool is to have, and where none is to begin; without Ray."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass

from evomerge.cluster.actors import Share
from evomerge.cluster.watch import Machine
from evomerge.core.work import Wishes

DRAINED = "a drained worker: evomerge workers undrain ID lets it back"
"""What a study waits for whose workers are all drained."""


@dataclass(frozen=True, slots=True)
class Room:
    """What a cluster has for a pool.

    Attributes:
        machines: The nodes that are alive, by id.
        share: What a worker reserves.
        aside: Ids of nodes that get none.
        wishes: Who is drained; one whose node is gone counts no more.
    """

    machines: Mapping[str, Machine]
    share: Share
    aside: Collection[str]
    wishes: Wishes

    def wanted(self, n_workers: int | None) -> int:
        """Return how many workers there are to be.

        Args:
            n_workers: Most at once; None for as many as the cluster carries.
        """
        here = self._here
        if n_workers is None:
            carried = sum(self.share.number_on(machine) for machine in here.values())
            n_workers = max(1, carried)  # one that waits asks for a node
        return max(0, n_workers - sum(self._drained.values()))

    def closed(self, nodes: Iterable[str]) -> list[str]:
        """Return the ids of nodes where no worker is to begin.

        Args:
            nodes: Of the workers there are, one for each.
        """
        there, here = Counter(nodes), self._here
        full = [
            key
            for key, n_drained in self._drained.items()
            if there[key] + n_drained >= self.share.number_on(here[key])
        ]
        return [*self.aside, *full]

    @property
    def _here(self) -> dict[str, Machine]:
        return {k: m for k, m in self.machines.items() if k not in self.aside}

    @property
    def _drained(self) -> Counter[str]:
        here = self._here
        return Counter(key for key in self.wishes.drained.values() if key in here)
