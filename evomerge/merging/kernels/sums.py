"""Sums of differences, thinned or not, one pass over the inputs, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. The steps, and their order, are those of ``sums.linear``: the
bits are the same.

Inputs come as tuples, one entry each, so that the compiler sees how many there are and
unfolds them; that is what the overloads below are for. ``base`` is an array or None. A
word may hold two entries (see ``numbers.places``); where it holds one, the compiler
sees that both are the same.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import njit, types
from numba.extending import overload

from evomerge.merging.kernels.bernoulli import draw
from evomerge.merging.kernels.entries import on_base, total, weighted, windows
from evomerge.merging.kernels.numbers import (
    BLOCK,
    NO,
    compiled,
    larger,
    load,
    places,
    write,
)
from evomerge.merging.kernels.thinned import thinned


def _sum(xs, i, z, weights):
    raise NotImplementedError("only in compiled code")


@overload(_sum)
def _sum_of(xs, i, z, weights):
    """Return ``sum(w_k (x_k - z))``, first to last."""
    if len(xs) == 1:
        return lambda xs, i, z, weights: (load(xs[0], i) - z) * weights[0]

    def more(xs, i, z, weights):
        before = _sum(xs[:-1], i, z, weights[:-1])
        return before + (load(xs[-1], i) - z) * weights[-1]

    return more


def _ended(value, ends):
    raise NotImplementedError("only in compiled code")


@overload(_ended)
def _ended_with(value, ends):
    """Return a value over a divisor, times a scale; None for one."""
    divided = not isinstance(ends.types[0], types.NoneType)
    if isinstance(ends.types[1], types.NoneType):
        if divided:
            return lambda value, ends: value / ends[0]
        return lambda value, ends: value
    if divided:
        return lambda value, ends: value / ends[0] * ends[1]
    return lambda value, ends: value * ends[1]


@njit(forceinline=True)
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


@njit(forceinline=True)
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
