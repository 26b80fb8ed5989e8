"""The order of entries within each row of a tensor, largest first.

Of equals, those that come first count as larger, as everywhere.
"""

from collections.abc import Sequence

import numpy as np
import torch

from evomerge.merging.operators.loops.arrays import arrays_of, can_read
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.parallel import in_parts

MOST_RANKS = 1 << 16
"""So many are kept in 16 bits."""


def row_length(shape: Sequence[int]) -> int:
    """Return how many entries a row has; a vector is one row, so is a number."""
    return shape[-1] if len(shape) else 1


def ranks(sizes: torch.Tensor) -> torch.Tensor:
    """Return each entry's rank in its row: 0 for the smallest.

    Args:
        sizes: Shape ``(rows, length)``.

    Returns:
        Same shape, int64.
    """
    length = sizes.shape[1]
    order = torch.argsort(sizes, dim=1, descending=True, stable=True)
    places = torch.arange(length - 1, -1, -1, device=sizes.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def row_ranks(deltas: Deltas, index: int, row: int) -> torch.Tensor | None:
    """Return each entry's rank in its row, uint16, flat; None if rows are too long."""
    if can_read(deltas):
        find = _row_ranks
    elif deltas.device.type != "cpu":
        find = sorted_ranks
    else:
        return None
    if row > MOST_RANKS:
        return None
    return deltas.recall("ranks", (index,), lambda: find(deltas, index, row))


def whole_ranks(deltas: Deltas, index: int) -> torch.Tensor:
    """Return each entry's rank in the whole tensor, int32, flat."""

    def compute() -> torch.Tensor:
        whole = slice(0, deltas.n)
        delta = deltas.read(index, whole, deltas.base(whole), deltas.scratch(deltas.n))
        return ranks(delta.abs_().view(1, -1)).to(torch.int32).view(-1)

    return deltas.recall("ranks in all", (index,), compute)


def sorted_ranks(deltas: Deltas, index: int, row: int) -> torch.Tensor:
    """Return each entry's rank in its row, uint16, flat, by sorting on the device."""
    size = max(deltas.block_size // row, 1) * row
    out = torch.empty(deltas.n, dtype=torch.uint16, device=deltas.device)
    space = deltas.scratch(size)
    for block in deltas.blocks(size):
        delta = deltas.read(index, block, deltas.base(block), space)
        out[block] = ranks(delta.abs_().view(-1, row)).view(-1)
    return out


def _row_ranks(deltas: Deltas, index: int, row: int) -> torch.Tensor:
    from evomerge.merging.kernels.order_statistics import pair_rows, spread_ranks

    x, base = arrays_of(deltas, index)
    out = np.empty(deltas.n, dtype=np.uint16)
    at_once = max((1 << 15) // row, 1)  # rows whose pairs stay in the cache

    def loop(low: int, high: int) -> int:
        space = np.empty((min(at_once, high - low), row), dtype=np.uint64)
        for first in range(low, high, at_once):
            end = min(first + at_once, high)
            pairs = space[: end - first]
            pair_rows(x, base, first * row, pairs)
            pairs.sort(axis=1)
            spread_ranks(pairs, out[first * row : end * row])
        return 0

    in_parts(loop, deltas.n // row, multiple_of=1, least=at_once)
    return torch.from_numpy(out)
