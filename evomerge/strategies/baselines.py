"""Random search: what every cleverer strategy must beat."""

from __future__ import annotations

from collections.abc import Sequence

from evomerge.core.space import SearchSpace
from evomerge.strategies.ask_tell_guard import AskTellGuard
from evomerge.strategies.base import Proposal, Told, scope


class RandomStrategy:
    """Points drawn uniformly, each a function of (seed, generation, index) alone."""

    def __init__(
        self,
        space: SearchSpace,
        turns: AskTellGuard,
        *,
        generation_size: int,
        seed: int,
    ) -> None:
        self._space = space
        self._turns = turns
        self._size = generation_size
        self._seed = seed

    @property
    def is_fold(self) -> bool:
        """State comes only from repeating every ask and tell: no."""
        return False

    @property
    def generation_size(self) -> int:
        """Number of candidates a generation."""
        return self._size

    def ask(self, generation: int) -> Proposal:
        """Propose a generation; see ``Strategy.ask``."""
        self._turns.ask(generation)
        return Proposal(
            tuple(
                self._space.random(scope(self._seed, generation, index))
                for index in range(self._size)
            )
        )

    def tell(
        self, generation: int, proposal: Proposal, results: Sequence[Told]
    ) -> None:
        """Note the results, which change nothing; see ``Strategy.tell``."""
        self._turns.tell(generation, proposal, results)
