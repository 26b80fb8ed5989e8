"""What an operator merges: one tensor of every input, and what is known of them.

A search merges the same inputs again and again; lengths, angles and singular vectors
stay the same. Operators ask a memo for them, and whoever calls an operator decides what
is kept, where and for how long.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from evomerge.core.recipes.operation import Operation

Value = TypeVar("Value")


class Memo(Protocol):
    """What was computed before from the same inputs.

    Values are tensors or hold some, and are never written to. Calls from several
    threads are safe.
    """

    def recall(
        self,
        what: tuple[str | None, ...],
        compute: Callable[[], Value],
        *,
        lasting: bool = True,
    ) -> Value:
        """Return what is kept under this name, computing it the first time.

        Args:
            what: The kind of value, the key of the tensor, the base's name (None
                without one), and the names of the inputs it depends on, in order.
            compute: Called if nothing is kept.
            lasting: It serves every candidate; False if it holds for one value of a
                knob.
        """


class Forgetful:
    """A memo that keeps nothing."""

    def recall(
        self,
        what: tuple[str | None, ...],
        compute: Callable[[], Value],
        *,
        lasting: bool = True,
    ) -> Value:
        """Compute it."""
        return compute()


NOTHING_KEPT = Forgetful()


@dataclass(frozen=True, slots=True)
class Operands:
    """One tensor of every input of an operation.

    Attributes:
        operation: Gives the names of the inputs and of the base.
        tensors: One per input, in the operation's order, all of one shape.
        base: The base's tensor, where the operation names a base.
        key: Name of the tensor in its source; random masks are drawn by it.
        memo: What is kept of these inputs from one candidate to the next.
    """

    operation: Operation
    tensors: Sequence[torch.Tensor]
    base: torch.Tensor | None
    key: str
    memo: Memo = NOTHING_KEPT

    @property
    def shape(self) -> torch.Size:
        """The shape of every tensor."""
        return self.tensors[0].shape

    def recall(
        self,
        kind: str,
        which: Sequence[int],
        compute: Callable[[], Value],
        *,
        lasting: bool = True,
    ) -> Value:
        """Return what is kept of some inputs, by their places in the operation."""
        names = (self.operation.inputs[index] for index in which)
        what = (kind, self.key, self.operation.base, *names)
        return self.memo.recall(what, compute, lasting=lasting)
