"""Sums and elections of thinned differences, one pass over the inputs, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. The steps, and their order, are those of ``operators.linear`` and
``operators.consensus``: the bits are the same.

Inputs come as tuples, one entry each, so that the compiler sees how many there are and
unfolds them; that is what the overloads below are for. ``base`` is an array or None.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import njit, types
from numba.extending import overload

from evomerge.merging.kernels.coins import draw
from evomerge.merging.kernels.entries import windows
from evomerge.merging.kernels.numbers import (
    BLOCK,
    NO,
    ONE,
    ZERO,
    compiled,
    load,
    size_bits,
    store,
)
from evomerge.merging.kernels.thinned import thinned

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

    def first(values, weights, sign):
        value = values[0] * weights[0] * sign
        under = weights[0] if value > ZERO else ZERO
        # What is no number is not below zero and stays; zeros lose their sign.
        return ZERO + (ZERO if value < ZERO else value), under, abs(under)

    def more(values, weights, sign):
        before, beneath, sizes = _agreeing(values[:-1], weights[:-1], sign)
        total, under, size = _agreeing(values[-1:], weights[-1:], sign)
        return before + total, beneath + under, sizes + size

    return first if len(values) == 1 else more


def _votes(votes, weights):
    raise NotImplementedError("only in compiled code")


@overload(_votes)
def _votes_of(votes, weights):
    """Return what each input's vote weighs; for None as much as its value."""
    if isinstance(votes, types.NoneType):
        return lambda votes, weights: weights
    return lambda votes, weights: votes


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


def _put(out, i, value, base, z):
    raise NotImplementedError("only in compiled code")


@overload(_put)
def _put_with(out, i, value, base, z):
    """Write a value, with the base where there is one; return the bits of its size."""
    if isinstance(base, types.NoneType):

        def alone(out, i, value, base, z):
            store(out, i, value)
            return size_bits(value)

        return alone

    def with_base(out, i, value, base, z):
        store(out, i, value + z)
        return size_bits(value + z)

    return with_base


@njit
def _larger(one, other):
    return one if one > other else other


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
        z = load(base, i)
        most = _larger(
            most, _put(out, i, _ended(_sum(xs, i, z, weights), ends), base, z)
        )
    return most


@compiled
def add_thinned(arrays, weights, steps, drawn, ends):
    """Write ``base + scale * sum(w_k thin(x_k - base)) / divisor``.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        steps: Per input the smallest size that stays, below which size (None for any,
            for all inputs), and the factor on what is left (None for one); fp32.
        drawn: Instead of steps, what ``coins.draw`` gave; else empty.
        ends: What the sum is divided by, and the scale: fp32, or None for one.

    Returns:
        The bits of the largest size written.
    """
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        z = load(base, i)
        left = thinned(xs, i, z, steps, drawn)
        value = _ended(_dot(left, weights), ends)
        most = _larger(most, _put(out, i, value, base, z))
    return most


@compiled
def elect(arrays, weights, steps, drawn, ballot):
    """Write ``base + scale * (merged agreeing differences)``.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        steps: As for ``add_thinned``.
        drawn: As for ``add_thinned``.
        ballot: What each input's vote weighs (None for as much as its value); whether
            signs vote instead of values (None for no); whether the sum is divided by
            the weights that agree; whether such weights may cancel (None for no); and
            the scale, fp32.

    Returns:
        The bits of the largest size written.
    """
    xs, base, out = arrays
    votes, by_sign, mean, mixed, scale = ballot
    most = NO
    for i in range(len(out)):
        z = load(base, i)
        left = thinned(xs, i, z, steps, drawn)
        tally = _tally(left, _votes(votes, weights), by_sign)
        sign = ONE if tally >= ZERO else -ONE
        total, under, size = _agreeing(left, weights, sign)
        divisor = under if mean & (under != ZERO) else ONE
        merged = total * _lasts(under, size, mixed) / divisor * sign * scale
        most = _larger(most, _put(out, i, merged, base, z))
    return most


@compiled
def add_tossed(arrays, weights, start, coins, ends):
    """As ``add_thinned``, with coins (see ``coins.draw``), block by block.

    The arrays begin at entry ``start`` of their tensors, a multiple of the block.
    """
    n = len(arrays[2])
    most = NO
    words = np.empty((len(coins), BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        found = add_thinned(windows(arrays, low, high), weights, (), drawn, ends)
        most = _larger(most, found)
    return most


@compiled
def elect_tossed(arrays, weights, start, coins, ballot):
    """As ``elect``, with coins (see ``coins.draw``), block by block.

    The arrays begin at entry ``start`` of their tensors, a multiple of the block.
    """
    n = len(arrays[2])
    most = NO
    words = np.empty((len(coins), BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        found = elect(windows(arrays, low, high), weights, (), drawn, ballot)
        most = _larger(most, found)
    return most
