"""Merges without compiled code: the steps that it must give the bits of."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from unittest.mock import patch

_WHERE = "evomerge.merging.operators"
_DOORS = (
    *("linear.can_fuse", "linear.can_fuse_on_device"),
    *("consensus.can_fuse", "consensus.can_fuse_on_device"),
    *("sparsify.can_sum", "sizes.can_read", "rows.can_read"),
    *("sce.can_fuse", "variances.can_count"),
)


@contextmanager
def single_steps() -> Iterator[None]:
    """Take every merge step by step, on any device."""
    with ExitStack() as stack:
        for door in _DOORS:
            stack.enter_context(patch(f"{_WHERE}.{door}", lambda *_: False))
        yield
