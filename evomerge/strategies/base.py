"""The strategy protocol, and the scoped random numbers every strategy draws from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from evomerge.core.trial import Point


@dataclass(frozen=True, slots=True)
class Proposal:
    """What a strategy wants tried next.

    Attributes:
        points: One generation of candidates, in index order, rounded to the grid; none
            if there are no more in the space.
        memory: Plain JSON data the strategy needs back to go on after this
            generation and cannot derive from the rows; recorded with it.
        note: Something worth showing a person, for example ``restart 1``.
    """

    points: tuple[Point, ...]
    memory: Mapping[str, Any] = field(default_factory=dict)
    note: str | None = None


@dataclass(frozen=True, slots=True)
class Told:
    """The result of one candidate, all better when smaller.

    Attributes:
        point: The point that was asked.
        losses: One per objective, finite; None marks a failed candidate.
        violations: One per constraint; 0 or less is feasible. Empty if failed.
        errors: Standard error of each loss, by the items that were asked; empty where
            that is not known.
    """

    point: Point
    losses: tuple[float, ...] | None
    violations: tuple[float, ...] = ()
    errors: tuple[float, ...] = ()


class Strategy(Protocol):
    """Proposes generations of candidates; deterministic given seed and history.

    Generations are numbered from 1. ``ask`` and ``tell`` alternate: ``tell(g)`` needs
    every result of generation ``g`` in index order (only the first ``n`` points if
    the budget cut the generation short). Not thread-safe; one process.

    A *fold* must be asked and told every generation, also when replaying. A strategy
    that is no fold may be told recorded generations without being asked, and then
    asks as if it had lived through them.
    """

    @property
    def is_fold(self) -> bool:
        """State comes only from repeating every ask and tell."""

    @property
    def generation_size(self) -> int:
        """Usual number of candidates a generation; restarts may change it."""

    def ask(self, generation: int) -> Proposal:
        """Propose a generation; asking the same one twice is an error.

        Raises:
            ValueError: Generations were asked or told out of order.
        """

    def tell(
        self, generation: int, proposal: Proposal, results: Sequence[Told]
    ) -> None:
        """Learn the results of a generation.

        Args:
            generation: Its number.
            proposal: What ``ask`` gave, or what was recorded of it.
            results: In index order, at most ``len(proposal.points)``.

        Raises:
            ValueError: Generations were asked or told out of order.
        """


def scope(seed: int, *key: int) -> np.random.Generator:
    """Return the random generator of one named place in a study.

    The stream depends on the key alone: what other places drew before cannot move it,
    so a replay draws the same numbers.

    Args:
        seed: The study's seed.
        key: Generation, phase and so on; non-negative.
    """
    return np.random.default_rng(np.random.SeedSequence([seed, *key]))
