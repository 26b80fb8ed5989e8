"""Random search: what every cleverer strategy must beat."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.strategies.ask_tell_guard import GuardedStrategy
from evomerge.strategies.base import Proposal, Told, scope


class RandomStrategy(GuardedStrategy):
    """Points drawn uniformly, each a function of (seed, generation, index) alone."""

    def _propose(self, generation: int) -> Proposal:
        return Proposal(
            tuple(
                self._space.random(scope(self._seed, generation, index))
                for index in range(self._size)
            )
        )

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Note the results, which change nothing."""
