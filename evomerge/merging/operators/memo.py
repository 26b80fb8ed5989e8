"""What operators work out of their inputs alone, whatever the candidate asks of them.

A search merges the same inputs again and again; lengths, angles and singular vectors
stay the same. Operators ask a memo for them, and whoever calls an operator decides what
is kept, where and for how long.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from evomerge.core.recipes.operation import Operation

Value = TypeVar("Value")


class Memo(Protocol):
    """What was computed before from the same inputs.

    Values are tensors or hold some, and are never written to. Calls from several
    threads are safe.
    """

    def recall(
        self, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept under this name, computing it the first time.

        Args:
            what: The kind of value, the key of the tensor, the base's name (None
                without one), and the names of the inputs it depends on, in order.
            compute: Called if nothing is kept.
        """


class Forgetful:
    """A memo that keeps nothing."""

    def recall(
        self, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Compute it."""
        return compute()


NOTHING_KEPT = Forgetful()


@dataclass(frozen=True, slots=True)
class Known:
    """What is known of one tensor of an operation's inputs.

    Attributes:
        memo: Where it is kept.
        operation: Gives the names of inputs and base.
        key: The tensor's key.
    """

    memo: Memo
    operation: Operation
    key: str

    def recall(
        self, kind: str, which: Sequence[int], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept of some inputs, by their places in the operation."""
        names = (self.operation.inputs[index] for index in which)
        what = (kind, self.key, self.operation.base, *names)
        return self.memo.recall(what, compute)
