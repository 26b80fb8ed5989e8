"""Sums and elections of thinned differences, one pass over the inputs, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. The steps, and their order, are those of ``operators.linear`` and
``operators.consensus``: the bits are the same.

Inputs come as tuples, one entry each, so that the compiler sees how many there are and
unfolds them; that is what the overloads below are for. ``base`` is an array or None. A
word may hold two entries (see ``numbers.places``); where it holds one, the compiler
sees that both are the same.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import njit, types
from numba.extending import overload

from evomerge.merging.kernels.coins import draw
from evomerge.merging.kernels.entries import total, weighted, windows
from evomerge.merging.kernels.numbers import (
    BLOCK,
    NO,
    ONE,
    SIGN,
    ZERO,
    as_bits,
    as_float,
    compiled,
    load,
    places,
    size_bits,
    store_all,
    u32,
)
from evomerge.merging.kernels.thinned import left_weighted, thinned

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


def _tally(values, votes, by_sign):
    raise NotImplementedError("only in compiled code")


@overload(_tally)
def _tally_of(values, votes, by_sign):
    """Return the sum of the votes: of values, or of signs, times what a vote weighs."""
    if isinstance(by_sign, types.NoneType):
        return lambda values, votes, by_sign: total(weighted(values, votes))
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


def agreeing(values, weights, flip):
    """Return three sums over those who agree: of sizes, of weights, of their sizes.

    Args:
        values: Weighted, a tuple of fp32.
        weights: One each.
        flip: ``SIGN`` where negative values agree, else 0.
    """
    raise NotImplementedError("only in compiled code")


@overload(agreeing)
def _agreeing_of(values, weights, flip):
    if len(values) == 0:
        return lambda values, weights, flip: (ZERO, ZERO, ZERO)

    def more(values, weights, flip):
        sizes, under, size = agreeing(values[:-1], weights[:-1], flip)
        value, weight = flipped(values[-1], flip), weights[-1]
        # What is no number is not zero or less, and stays.
        agrees = not (value <= ZERO)
        return (
            sizes + value if agrees else sizes,
            under + weight if agrees else under,
            size + abs(weight) if agrees else size,
        )

    return more


@njit(forceinline=True)
def flipped(value, flip):
    """Return a number, of the other sign where the flip is the sign's bit."""
    return as_float(u32(as_bits(value) ^ flip))


def _votes(values, xs, i, z, thinning, ballot):
    raise NotImplementedError("only in compiled code")


@overload(_votes)
def _votes_of(values, xs, i, z, thinning, ballot):
    """Return the sum that elects: of weighted differences, or of votes."""
    if isinstance(ballot.types[0], types.NoneType):
        return lambda values, xs, i, z, thinning, ballot: total(values)
    return lambda values, xs, i, z, thinning, ballot: _tally(
        thinned(xs, i, z, thinning[0], thinning[1]), ballot[0], ballot[1]
    )


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


def _scaled(value, scale):
    raise NotImplementedError("only in compiled code")


@overload(_scaled)
def _scaled_by(value, scale):
    """Return a value times a scale; None for one."""
    if isinstance(scale, types.NoneType):
        return lambda value, scale: value
    return lambda value, scale: value * scale


def _on(base, z, value):
    raise NotImplementedError("only in compiled code")


@overload(_on)
def _on_base(base, z, value):
    """Return a value with the base's entry where there is a base."""
    if isinstance(base, types.NoneType):
        return lambda base, z, value: value
    return lambda base, z, value: value + z


@njit(forceinline=True)
def larger(one, other):
    """Return the larger one."""
    return one if one > other else other


@njit(forceinline=True)
def write(out, i, first, second):
    """Write a word's entries; return the bits of the larger size."""
    store_all(out, i, first, second)
    return larger(size_bits(first), size_bits(second))


@njit(forceinline=True)
def _added(xs, base, i, weights, ends):
    z = load(base, i)
    return _on(base, z, _ended(_sum(xs, i, z, weights), ends))


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
    return _on(base, z, _ended(total(weighted(left, weights)), ends))


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
        one, two = places(out, i)
        first = _added_thinned(xs, base, one, weights, (steps, drawn), ends)
        second = _added_thinned(xs, base, two, weights, (steps, drawn), ends)
        most = larger(most, write(out, i, first, second))
    return most


@njit(forceinline=True)
def elected(xs, i, z, weights, thinning, ballot):
    """Return the merged differences of those who agree, at one place.

    Args:
        xs: Inputs, a tuple.
        i: A place.
        z: The base's entry, fp32.
        weights: As for ``elect``, like the ballot.
        thinning: The steps, and what was drawn instead.
        ballot: How it is merged.
    """
    _, _, mean, mixed, scale = ballot
    values = left_weighted(xs, i, z, thinning[0], thinning[1], weights)
    tally = _votes(values, xs, i, z, thinning, ballot)
    flip = NO if tally >= ZERO else SIGN
    sizes, under, size = agreeing(values, weights, flip)
    divisor = under if mean & (under != ZERO) else ONE
    merged = sizes * _lasts(under, size, mixed) / divisor
    return _scaled(flipped(merged, flip), scale)


@njit(forceinline=True)
def _elected(xs, base, i, weights, thinning, ballot):
    z = load(base, i)
    return _on(base, z, elected(xs, i, z, weights, thinning, ballot))


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
            the scale, fp32 (None for one).

    Returns:
        The bits of the largest size written.
    """
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        one, two = places(out, i)
        first = _elected(xs, base, one, weights, (steps, drawn), ballot)
        second = _elected(xs, base, two, weights, (steps, drawn), ballot)
        most = larger(most, write(out, i, first, second))
    return most


@compiled
def add_tossed(arrays, weights, start, coins, ends):
    """As ``add_thinned``, with coins (see ``coins.draw``), block by block.

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
def elect_tossed(arrays, weights, start, coins, ballot):
    """As ``elect``, with coins, and otherwise as ``add_tossed``."""
    n = len(arrays[2])
    most = NO
    words = np.empty((len(coins) + 1, BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        found = elect(windows(arrays, low, high), weights, (), drawn, ballot)
        most = larger(most, found)
    return most
