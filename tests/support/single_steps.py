"""Merges without compiled code: the steps that it must give the bits of."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

_WHERE = "evomerge.merging.operators"
_DOORS = (
    "thresholds.sparsify.can_sum",
    "thresholds.magnitude_thresholds.can_read",
    "loops.order_statistics.can_read",
    "sums.variances.can_count",
    "elementwise.ram.can_count",
    "elementwise.pcb.can_count",
)


@contextmanager
def single_steps() -> Iterator[None]:
    """Take every merge step by step, on any device."""
    with ExitStack() as stack:
        stack.enter_context(patch(f"{_WHERE}.executors.merge.EXECUTORS", ()))
        for door in _DOORS:
            stack.enter_context(patch(f"{_WHERE}.{door}", lambda *_: False))
        yield
