"""L1 norms of differences, and of what is left of them, block by block, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np

from evomerge.merging.kernels.coins import draw
from evomerge.merging.kernels.entries import windows
from evomerge.merging.kernels.numbers import BLOCK, compiled, load
from evomerge.merging.kernels.thinned import thinned


@compiled
def add_sizes(arrays, steps, drawn, sums):
    """Add the sizes of a difference to one sum, of what is left of it to another.

    Args:
        arrays: A tuple of one input; and base, an array or None.
        steps: As for ``add_thinned``.
        drawn: As for ``add_thinned``.
        sums: fp64, shape ``(2,)``.
    """
    xs, base = arrays
    whole, left = sums[0], sums[1]
    for i in range(len(xs[0])):
        z = load(base, i)
        whole += np.float64(abs(load(xs[0], i) - z))
        left += np.float64(abs(thinned(xs, i, z, steps, drawn)[0]))
    sums[0], sums[1] = whole, left


@compiled
def add_sizes_cut(arrays, steps, first, start, sums):
    """Sum sizes block by block, of entries that all have the same steps.

    The arrays begin at entry ``start`` of their tensors; ``first`` is the entry that
    the first row of ``sums`` begins at, a multiple of the block.
    """
    n = len(arrays[0][0])
    low = 0
    while low < n:
        place = (start + low - first) // BLOCK
        high = min(first + (place + 1) * BLOCK - start, n)
        add_sizes(windows(arrays, low, high), steps, (), sums[place])
        low = high


@compiled
def add_sizes_tossed(arrays, start, coins, sums):
    """As ``add_sizes_cut``, with coins; ``start`` is a multiple of the block."""
    n = len(arrays[0][0])
    words = np.empty((len(coins), BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        add_sizes(windows(arrays, low, high), (), drawn, sums[low // BLOCK])
