"""What an operator merges: one tensor of every input, and what is known of them.

A search merges the same inputs again and again; lengths, angles and singular vectors
stay the same. Operators ask for them by kind, and whoever calls an operator decides
what is kept, where and for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypedDict, TypeVar

import torch

from evomerge.core.operators.derived import Derived
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.settings import Settings
from evomerge.errors import RecipeError
from evomerge.merging.form import Cut

Value = TypeVar("Value")


class Memo(Protocol):
    """What was computed before from the same inputs.

    Values are tensors or hold some, and are never written to. Calls from several
    threads are safe.
    """

    def recall(
        self, kind: Derived, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept under this name, computing it the first time.

        Args:
            kind: What it is, and how long it holds.
            what: The key of the tensor, the base's name (None without one), and the
                names of the inputs it depends on, in order.
            compute: Called if nothing is kept.
        """


class Forgetful:
    """A memo that keeps nothing."""

    def recall(
        self, kind: Derived, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Compute it."""
        return compute()


NOTHING_KEPT = Forgetful()


class Statistic(Protocol):
    """What some tool measured of an input, for one of its tensors."""

    @property
    def tensor(self) -> torch.Tensor:
        """One number per entry of the tensor; never write to it."""

    @property
    def norm(self) -> float:
        """The L2 norm of the statistic over all tensors of the input."""


class ModelShare(Protocol):
    """What one tensor is of all that is trimmed as one."""

    @property
    def n(self) -> int:
        """Entries of all tensors."""

    def cut(self, keep: int, length: int) -> Cut | None:
        """Return where this tensor is cut if ``keep`` entries of all stay.

        Args:
            keep: How many; one that the cuts were found for.
            length: Entries of this tensor.

        Returns:
            None if everything stays.
        """


class Beside(TypedDict, total=False):
    """What only some operators look at; see :class:`Inputs`."""

    statistics: Callable[[str, str], Statistic] | None
    in_model: Callable[[str], ModelShare] | None


@dataclass(frozen=True, slots=True)
class Inputs:
    """One tensor of every input of an operation.

    Attributes:
        settings: Every knob decided, and the names of the inputs and of the base.
        tensors: One per input, in the operation's order, all of one shape.
        base: The base's tensor, where the operation names a base.
        key: Name of the tensor in its source; random masks are drawn by it.
        memo: What is kept of these inputs from one candidate to the next.
        statistics: Kind and name of an input to what was measured of it; holds what
            the operator's row asks for.
        in_model: Name of an input to what the tensor is of all its differences, where
            the operator takes the tensors of all layers as one.
    """

    settings: Settings
    tensors: Sequence[torch.Tensor]
    base: torch.Tensor | None
    key: str
    memo: Memo = NOTHING_KEPT
    statistics: Callable[[str, str], Statistic] | None = None
    in_model: Callable[[str], ModelShare] | None = None

    @property
    def operation(self) -> Operation:
        """The operation, with the names of its inputs."""
        return self.settings.operation

    @property
    def shape(self) -> torch.Size:
        """The shape of every tensor."""
        return self.tensors[0].shape

    def recall(
        self, kind: Derived, which: Sequence[int], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept of some inputs, by their places in the operation.

        Raises:
            RecipeError: The operator's row does not say that it keeps this kind.
        """
        if kind.at() not in self.settings.operator.keeps:
            raise RecipeError(
                f"Operator {self.operation.operator!r} keeps {kind.name!r}, but its "
                "row does not name it. Add it to `keeps`."
            )
        names = (self.operation.inputs[index] for index in which)
        return self.memo.recall(kind, (self.key, self.operation.base, *names), compute)

    def statistic(self, kind: str, index: int) -> Statistic:
        """Return what was measured of an input, by its place in the operation.

        Raises:
            RecipeError: The operator's row does not ask for it, or nobody gave it.
        """
        name = self.operation.inputs[index]
        is_named = kind in self.settings.operator.statistics
        if not is_named or self.statistics is None:
            why = "nobody gave it" if is_named else "its row does not ask for it"
            raise RecipeError(
                f"{self.key}: operator {self.operation.operator!r} needs {kind!r} of "
                f"input {name!r}, but {why}."
            )
        return self.statistics(kind, name)
