"""Whose turn it is: asks and tells alternate, and what is told was asked.

Every strategy holds one ``AskTellGuard`` and reports to it first, so all refuse the
same mistakes with the same words.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from evomerge.strategies.base import Proposal, Told


class AskTellGuard:
    """Checks the order of asks and tells, and the shape of what is told.

    Args:
        is_fold: Every generation must be asked before it is told.
        n_objectives: Losses per scored candidate.
        n_constraints: Violations per scored candidate.
    """

    def __init__(self, *, is_fold: bool, n_objectives: int, n_constraints: int) -> None:
        self._is_fold = is_fold
        self._n_objectives = n_objectives
        self._n_constraints = n_constraints
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
            self._is_fold and self._asked != generation
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
        if shape != (self._n_objectives, self._n_constraints):
            raise ValueError(
                f"Result {index} of generation {generation} has {shape[0]} losses and "
                f"{shape[1]} violations; expected {self._n_objectives} and "
                f"{self._n_constraints}."
            )
        if not all(math.isfinite(v) for v in (*result.losses, *result.violations)):
            raise ValueError(
                f"Result {index} of generation {generation} holds a number that is not "
                "finite; a candidate without usable scores has losses None."
            )
