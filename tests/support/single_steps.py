"""Merges without compiled code: the steps that it must give the bits of."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

_WHERE = "evomerge.merging.operators"
_DOORS = (
    *("sums.linear.can_fuse", "sums.linear.can_fuse_on_device"),
    *("sums.ties.can_fuse", "sums.ties.can_fuse_on_device"),
    *(
        "thresholds.sparsify.can_sum",
        "thresholds.magnitude_thresholds.can_read",
        "loops.order_statistics.can_read",
    ),
    *("sums.sce.can_fuse", "sums.variances.can_count"),
)


@contextmanager
def single_steps() -> Iterator[None]:
    """Take every merge step by step, on any device."""
    with ExitStack() as stack:
        for door in _DOORS:
            stack.enter_context(patch(f"{_WHERE}.{door}", lambda *_: False))
        yield
