"""Every point of a small space, once."""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Sequence
from itertools import islice

from evomerge.core.trial import Point
from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Told, scope


class GridStrategy(GuardedStrategy):
    """Points in an order that only the space and the seed decide.

    Of points that stand for one merge, the first. A generation without points says that
    every one was proposed.
    """

    def __init__(self, setup: StrategySetup) -> None:
        """Begin before the first point."""
        super().__init__(setup)
        self._identity = setup.identity
        self._taken: list[Point] = []
        self._left = self._points()

    def _propose(self, generation: int) -> Proposal:
        begin, end = (generation - 1) * self._size, generation * self._size
        self._taken += islice(self._left, max(end - len(self._taken), 0))
        return Proposal(tuple(self._taken[begin:end]))

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Note the results, which change nothing."""

    def _points(self) -> Iterator[Point]:
        points = list(self._space.points())
        order: Sequence[int] = range(len(points))
        if self._options["order"] == "spread":
            order = scope(self._seed).permutation(len(points)).tolist()
        seen: set[Hashable] = set()
        for index in order:
            identity = self._identity(points[index])
            if identity not in seen:
                seen.add(identity)
                yield points[index]
