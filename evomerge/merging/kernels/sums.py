"""Sums of differences, thinned or not, and of their sizes, in one pass, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. The steps, and their order, are those of ``sums.linear``: the
bits are the same.

Inputs come as tuples, so that the compiler sees how many there are and unfolds what is
done with them. ``base`` is an array or None. A word may hold two entries (see
``numbers.places``); where it holds one, the compiler sees that both are the same.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import BLOCK
from evomerge.merging.kernels.bernoulli import draw
from evomerge.merging.kernels.entries import on_base, thinned, total, weighted, windows
from evomerge.merging.kernels.numbers import (
    NO,
    compiled,
    inner,
    larger,
    load,
    places,
    unfolded,
    write,
)


@unfolded
def _sum(xs, i, z, weights):
    """Return ``sum(w_k (x_k - z))``, first to last."""
    if len(xs) == 1:
        return lambda xs, i, z, weights: (load(xs[0], i) - z) * weights[0]

    def more(xs, i, z, weights):
        before = _sum(xs[:-1], i, z, weights[:-1])
        return before + (load(xs[-1], i) - z) * weights[-1]

    return more


@unfolded
def _ended(value, ends):
    """Return a value over a divisor, times a scale; None for one."""
    divided = not isinstance(ends.types[0], types.NoneType)
    if isinstance(ends.types[1], types.NoneType):
        if divided:
            return lambda value, ends: value / ends[0]
        return lambda value, ends: value
    if divided:
        return lambda value, ends: value / ends[0] * ends[1]
    return lambda value, ends: value * ends[1]


@inner(forceinline=True)
def _added(xs, base, i, weights, ends):
    z = load(base, i)
    return on_base(base, z, _ended(_sum(xs, i, z, weights), ends))


@compiled
def add(arrays, weights, ends):
    """Write ``base + scale * sum(w_k (x_k - base)) / divisor``.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        ends: What the sum is divided by, and the scale: fp32, or None for one.

    Returns:
        The bits of the largest size written.
    """
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        one, two = places(out, i)
        first = _added(xs, base, one, weights, ends)
        second = _added(xs, base, two, weights, ends)
        most = larger(most, write(out, i, first, second))
    return most


@inner(forceinline=True)
def _added_thinned(xs, base, i, weights, thinning, ends):
    z = load(base, i)
    left = thinned(xs, i, z, thinning[0], thinning[1])
    return on_base(base, z, _ended(total(weighted(left, weights)), ends))


@compiled
def add_thinned(arrays, weights, steps, drawn, ends):
    """Write ``base + scale * sum(w_k thin(x_k - base)) / divisor``.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        steps: Per input the smallest size that stays, below which size (None for any,
            for all inputs), and the factor on what is left (None for one); fp32.
        drawn: Instead of steps, what ``bernoulli.draw`` gave; else empty.
        ends: What the sum is divided by, and the scale: fp32, or None for one.

    Returns:
        The bits of the largest size written.
    """
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        one, two = places(out, i)
        first = _added_thinned(xs, base, one, weights, (steps, drawn), ends)
        second = _added_thinned(xs, base, two, weights, (steps, drawn), ends)
        most = larger(most, write(out, i, first, second))
    return most


@compiled
def add_tossed(arrays, weights, start, coins, ends):
    """As ``add_thinned``, with coins (see ``bernoulli.draw``), block by block.

    The arrays begin at entry ``start`` of their tensors, a multiple of the block. Words
    hold one entry: to sort lanes into halves would cost what pairs save.
    """
    n = len(arrays[2])
    most = NO
    words = np.empty((len(coins) + 1, BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        found = add_thinned(windows(arrays, low, high), weights, (), drawn, ends)
        most = larger(most, found)
    return most


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
