"""Sums and elections of thinned differences, one pass over the inputs, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. The steps, and their order, are those of ``operators.linear`` and
``operators.consensus``: the bits are the same.

Inputs come as tuples, one entry each, so that the compiler sees how many there are and
unfolds them; that is what the overloads below are for. ``base`` is an array or None.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types
from numba.extending import overload

from evomerge.merging.kernels.coins import rows, toss, windows
from evomerge.merging.kernels.numbers import (
    BLOCK,
    ONE,
    ZERO,
    compiled,
    load,
    store,
    u32,
)

_CANCELLED = np.float32(1e-6)


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


def _thinned(xs, i, z, steps, flags):
    raise NotImplementedError("only in compiled code")


@overload(_thinned)
def _thinned_of(xs, i, z, steps, flags):
    """Return what is left of each input's difference, as a tuple."""
    if len(xs) == 0:
        return lambda xs, i, z, steps, flags: ()

    def cut(xs, i, z, steps, flags):
        low, high, factor = steps[0]
        delta = load(xs[0], i) - z
        size = abs(delta)
        # Times zero, so that what is no number stays none.
        left = delta * (ONE if (size >= low) & (size < high) else ZERO)
        return (left * factor, *_thinned(xs[1:], i, z, steps[1:], flags))

    def flagged(xs, i, z, steps, flags):
        left = (load(xs[0], i) - z) * flags[0][i] * steps[0][2]
        return (left, *_thinned(xs[1:], i, z, steps[1:], flags[1:]))

    return flagged if len(flags) else cut


def _dot(values, weights):
    raise NotImplementedError("only in compiled code")


@overload(_dot)
def _dot_of(values, weights):
    """Return ``sum(v_k w_k)``, first to last."""
    if len(values) == 1:
        return lambda values, weights: values[0] * weights[0]

    def more(values, weights):
        return _dot(values[:-1], weights[:-1]) + values[-1] * weights[-1]

    return more


def _tally(values, votes, by_sign):
    raise NotImplementedError("only in compiled code")


@overload(_tally)
def _tally_of(values, votes, by_sign):
    """Return the sum of the votes: of values, or of signs, times what a vote weighs."""
    if isinstance(by_sign, types.NoneType):
        return lambda values, votes, by_sign: _dot(values, votes)
    if len(values) == 0:
        return lambda values, votes, by_sign: ZERO

    def more(values, votes, by_sign):
        up = ONE if values[-1] > ZERO else ZERO
        down = ONE if values[-1] < ZERO else ZERO
        return _tally(values[:-1], votes[:-1], by_sign) + (up - down) * votes[-1]

    return more


def _lasts(under, size, mixed):
    raise NotImplementedError("only in compiled code")


@overload(_lasts)
def _lasts_of(under, size, mixed):
    """Return 0.0 where weights of both signs cancel, else 1.0."""
    if isinstance(mixed, types.NoneType):
        return lambda under, size, mixed: ONE
    return lambda under, size, mixed: ONE if abs(under) > size * _CANCELLED else ZERO


def _agreeing(values, weights, sign):
    raise NotImplementedError("only in compiled code")


@overload(_agreeing)
def _agreeing_of(values, weights, sign):
    """Return three sums over those who agree: of values, of weights, of their sizes."""
    if len(values) == 0:
        return lambda values, weights, sign: (ZERO, ZERO, ZERO)

    def more(values, weights, sign):
        total, under, size = _agreeing(values[:-1], weights[:-1], sign)
        value = values[-1] * weights[-1] * sign
        flag = ONE if value > ZERO else ZERO
        # Not a choice by size: what is no number must stay none.
        total = total + (ZERO if value < ZERO else value)
        return total, under + flag * weights[-1], size + flag * abs(weights[-1])

    return more


def _put(out, i, value, base, z):
    raise NotImplementedError("only in compiled code")


@overload(_put)
def _put_with(out, i, value, base, z):
    """Write a value, with the base where there is one."""
    if isinstance(base, types.NoneType):
        return lambda out, i, value, base, z: store(out, i, value)
    return lambda out, i, value, base, z: store(out, i, value + z)


@compiled
def add(arrays, weights):
    """Write ``base + sum(w_k (x_k - base))``; return not zero if not all finite.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
    """
    xs, base, out = arrays
    bad = np.uint32(0)
    for i in range(len(out)):
        z = load(base, i)
        bad = u32(bad | _put(out, i, _sum(xs, i, z, weights), base, z))
    return bad


@compiled
def add_thinned(arrays, weights, steps, flags):
    """Write ``base + sum(w_k thin(x_k - base))``; return not zero if not all finite.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        steps: Per input the smallest size that stays, below which size, and the factor
            on what is left; fp32.
        flags: Instead of sizes, arrays of factors for every entry; else empty.
    """
    xs, base, out = arrays
    bad = np.uint32(0)
    for i in range(len(out)):
        z = load(base, i)
        left = _thinned(xs, i, z, steps, flags)
        bad = u32(bad | _put(out, i, _dot(left, weights), base, z))
    return bad


@compiled
def elect(arrays, weights, steps, flags, ballot):
    """Write ``base + scale * (merged agreeing differences)``.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        steps: As for ``add_thinned``.
        flags: As for ``add_thinned``.
        ballot: What each input's vote weighs; whether signs vote instead of values
            (None for no); whether the sum is divided by the weights that agree; whether
            such weights may cancel (None for no); and the scale, fp32.

    Returns:
        Not zero if a number written is not finite.
    """
    xs, base, out = arrays
    votes, by_sign, mean, mixed, scale = ballot
    bad = np.uint32(0)
    for i in range(len(out)):
        z = load(base, i)
        left = _thinned(xs, i, z, steps, flags)
        tally = _tally(left, votes, by_sign)
        sign = ONE if tally >= ZERO else -ONE
        total, under, size = _agreeing(left, weights, sign)
        divisor = under if mean & (under != ZERO) else ONE
        merged = total * _lasts(under, size, mixed) / divisor * sign * scale
        bad = u32(bad | _put(out, i, merged, base, z))
    return bad


@compiled
def add_tossed(arrays, weights, steps, start, coins):
    """As ``add_thinned``, with coins (see ``coins.toss``) tossed block by block.

    The arrays begin at entry ``start`` of their tensors, a multiple of the block.
    """
    n = len(arrays[2])
    bad = np.uint32(0)
    words = np.empty(BLOCK // 2, np.uint64)
    flags = np.empty((len(weights), BLOCK), np.float32)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        tossed = rows(flags, weights, high - low)
        toss(coins, start + low, words, tossed)
        found = add_thinned(windows(arrays, low, high), weights, steps, tossed)
        bad = u32(bad | found)
    return bad


@compiled
def elect_tossed(arrays, weights, steps, start, coins, ballot):
    """As ``elect``, with coins (see ``coins.toss``) tossed block by block.

    The arrays begin at entry ``start`` of their tensors, a multiple of the block.
    """
    n = len(arrays[2])
    bad = np.uint32(0)
    words = np.empty(BLOCK // 2, np.uint64)
    flags = np.empty((len(weights), BLOCK), np.float32)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        tossed = rows(flags, weights, high - low)
        toss(coins, start + low, words, tossed)
        found = elect(windows(arrays, low, high), weights, steps, tossed, ballot)
        bad = u32(bad | found)
    return bad


@compiled
def add_sizes(arrays, steps, flags, sums):
    """Add the sizes of a difference to one sum, of what is left of it to another.

    Args:
        arrays: A tuple of one input; and base, an array or None.
        steps: As for ``add_thinned``.
        flags: As for ``add_thinned``.
        sums: fp64, shape ``(2,)``.
    """
    xs, base = arrays
    whole, left = sums[0], sums[1]
    for i in range(len(xs[0])):
        z = load(base, i)
        whole += np.float64(abs(load(xs[0], i) - z))
        left += np.float64(abs(_thinned(xs, i, z, steps, flags)[0]))
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
def add_sizes_tossed(arrays, steps, start, coins, sums):
    """As ``add_sizes_cut``, with coins; ``start`` is a multiple of the block."""
    n = len(arrays[0][0])
    words = np.empty(BLOCK // 2, np.uint64)
    flags = np.empty((1, BLOCK), np.float32)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        tossed = rows(flags, steps, high - low)
        toss(coins, start + low, words, tossed)
        add_sizes(windows(arrays, low, high), steps, tossed, sums[low // BLOCK])
