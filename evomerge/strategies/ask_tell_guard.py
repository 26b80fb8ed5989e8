"""Whose turn it is: asks and tells alternate, and what is told was asked.

Every ``GuardedStrategy`` reports to an ``AskTellGuard`` first, so all refuse the same
mistakes with the same words.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.core.space import SearchSpace
from evomerge.core.trial import Point
from evomerge.strategies.base import Proposal, Told


def by_values(point: Point) -> Hashable:
    """Tell points apart by their values alone."""
    return tuple(sorted(point.items()))


@dataclass(frozen=True, slots=True)
class StrategySetup:
    """What a strategy is made of.

    Attributes:
        space: What it searches.
        generation_size: Candidates a generation; restarts may change it.
        seed: The study's seed; with the history it decides every proposal.
        options: Every option that its info lists, with its value.
        is_fold: Its state comes only from repeating every ask and tell.
        n_objectives: Losses per scored candidate.
        n_constraints: Violations per scored candidate.
        identity: What is equal for points that stand for one merge.
    """

    space: SearchSpace
    generation_size: int
    seed: int
    options: Mapping[str, Any] = field(default_factory=dict)
    is_fold: bool = False
    n_objectives: int = 1
    n_constraints: int = 0
    identity: Callable[[Point], Hashable] = by_values


class AskTellGuard:
    """Checks the order of asks and tells, and the shape of what is told.

    Args:
        setup: Tells whether every generation must be asked before it is told, and how
            many losses and violations a scored candidate has.
    """

    def __init__(self, setup: StrategySetup) -> None:
        self._setup = setup
        self._asked = 0
        self._told = 0

    def ask(self, generation: int) -> None:
        """Note that a generation is asked.

        Raises:
            ValueError: It is not the one after the last told one, or was asked before.
        """
        if generation != self._told + 1 or self._asked == generation:
            raise ValueError(
                f"Generation {generation} was asked out of order: the last asked is "
                f"{self._asked}, the last told is {self._told}. Tell every generation "
                "before asking the next, and ask each once."
            )
        self._asked = generation

    def tell(
        self, generation: int, proposal: Proposal, results: Sequence[Told]
    ) -> None:
        """Note that a generation is told.

        Raises:
            ValueError: It is out of order, or the results do not fit the proposal.
        """
        if generation != self._told + 1 or (
            self._setup.is_fold and self._asked != generation
        ):
            raise ValueError(
                f"Generation {generation} was told out of order: the last asked is "
                f"{self._asked}, the last told is {self._told}. Replay the recorded "
                "generations from 1, each in turn."
            )
        if len(results) > len(proposal.points):
            raise ValueError(
                f"Generation {generation} proposed {len(proposal.points)} points but "
                f"was told {len(results)} results."
            )
        for index, result in enumerate(results):
            if result.point != proposal.points[index]:
                raise ValueError(
                    f"Result {index} of generation {generation} is of "
                    f"{dict(result.point)}, but {dict(proposal.points[index])} was "
                    "proposed; tell results in index order."
                )
            self._check_numbers(generation, index, result)
        self._told = generation

    def _check_numbers(self, generation: int, index: int, result: Told) -> None:
        if result.losses is None:
            return
        shape = (len(result.losses), len(result.violations))
        wanted = (self._setup.n_objectives, self._setup.n_constraints)
        if shape != wanted:
            raise ValueError(
                f"Result {index} of generation {generation} has {shape[0]} losses and "
                f"{shape[1]} violations; expected {wanted[0]} and {wanted[1]}."
            )
        n_errors = len(result.errors)
        if n_errors not in (0, wanted[0]) or not all(e >= 0 for e in result.errors):
            raise ValueError(
                f"Result {index} of generation {generation} has the errors "
                f"{result.errors}; expected {wanted[0]} of 0 or more, or none."
            )
        if not all(
            math.isfinite(v)
            for v in (*result.losses, *result.violations, *result.errors)
        ):
            raise ValueError(
                f"Result {index} of generation {generation} holds a number that is not "
                "finite; a candidate without usable scores has losses None."
            )


class GuardedStrategy(ABC):
    """A strategy whose calls are checked before it hears of them.

    Args:
        setup: What it is made of; which options it reads, its info says.
    """

    def __init__(self, setup: StrategySetup) -> None:
        self._space = setup.space
        self._size = setup.generation_size
        self._seed = setup.seed
        self._options = setup.options
        self._is_fold = setup.is_fold
        self._guard = AskTellGuard(setup)

    @property
    def is_fold(self) -> bool:
        """State comes only from repeating every ask and tell, as its info says."""
        return self._is_fold

    @property
    def generation_size(self) -> int:
        """Usual number of candidates a generation."""
        return self._size

    def ask(self, generation: int) -> Proposal:
        """Propose a generation; see ``Strategy.ask``."""
        self._guard.ask(generation)
        return self._propose(generation)

    def tell(
        self, generation: int, proposal: Proposal, results: Sequence[Told]
    ) -> None:
        """Learn the results of a generation; see ``Strategy.tell``."""
        self._guard.tell(generation, proposal, results)
        self._learn(generation, results)

    @abstractmethod
    def _propose(self, generation: int) -> Proposal:
        """Propose a generation whose turn it is."""

    @abstractmethod
    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Learn the results of what was proposed, or of its first candidates."""
