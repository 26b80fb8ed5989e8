"""Sizes of differences, and of what is left of them, looked at and summed, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np

from evomerge.merging.kernels.bernoulli import draw
from evomerge.merging.kernels.entries import windows
from evomerge.merging.kernels.numbers import (
    BLOCK,
    FULL,
    NO,
    compiled,
    larger,
    load,
    size_bits,
)
from evomerge.merging.kernels.thinned import thinned


@compiled
def is_any_infinite(array):
    """Tell whether any entry is infinite or no number."""
    most = NO
    for i in range(len(array)):
        most = larger(most, size_bits(load(array, i)))
    return most >= FULL


@compiled
def _fold(values, n):
    """Return the sum of the first numbers, fp64, halved in length until one is left."""
    while n > 1:
        half = n // 2
        low, high = values[:half], values[n - half : n]
        for i in range(half):
            low[i] += high[i]
        n -= half
    return values[0]


@compiled
def _total(values, space):
    """Return the sum of fp32 numbers in fp64, always in the same order."""
    for i in range(len(values)):
        space[i] = np.float64(values[i])
    return _fold(space, len(values))


@compiled
def _sizes(arrays, steps, drawn, found):
    """Write the sizes of a difference, and of what is left of it: fp32."""
    xs, base = arrays
    whole, left = found
    for i in range(len(whole)):
        z = load(base, i)
        whole[i] = abs(load(xs[0], i) - z)
        left[i] = abs(thinned(xs, i, z, steps, drawn)[0])


@compiled
def add_sizes(arrays, steps, drawn, sums):
    """Add the sizes of a difference to one sum, of what is left of it to another.

    Args:
        arrays: A tuple of one input, of at most a block; and base, an array or None.
        steps: As for ``add_thinned``.
        drawn: As for ``add_thinned``.
        sums: fp64, shape ``(2,)``.
    """
    n = len(arrays[0][0])
    whole, left = np.empty(n, np.float32), np.empty(n, np.float32)
    _sizes(arrays, steps, drawn, (whole, left))
    space = np.empty(n, np.float64)
    sums[0] += _total(whole, space)
    sums[1] += _total(left, space)


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
    words = np.empty((len(coins) + 1, BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        add_sizes(windows(arrays, low, high), (), drawn, sums[low // BLOCK])
