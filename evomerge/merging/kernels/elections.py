"""Elections of signs, and merges of those who agree, in one pass, compiled.

Every input is read once and the result is written once; between the two everything
happens in registers. The steps, and their order, are those of ``sums.ties``: the bits
are the same.

Inputs come as tuples, bases as arrays or None, and words may hold two entries: see
``sums``.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import BLOCK, CANCELLED
from evomerge.merging.kernels.bernoulli import draw
from evomerge.merging.kernels.entries import (
    left_weighted,
    on_base,
    thinned,
    total,
    weighted,
    windows,
)
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    SIGN,
    ZERO,
    as_bits,
    as_float,
    compiled,
    inner,
    larger,
    load,
    places,
    u32,
    unfolded,
    write,
)

_CANCELLED = np.float32(CANCELLED)


@unfolded
def _tally(values, votes, by_sign):
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


@unfolded
def _lasts(under, size, mixed):
    """Return 0.0 where weights of both signs cancel, else 1.0."""
    if isinstance(mixed, types.NoneType):
        return lambda under, size, mixed: ONE
    return lambda under, size, mixed: ONE if abs(under) > size * _CANCELLED else ZERO


@unfolded
def agreeing(values, weights, flip):
    """Return three sums over those who agree: of sizes, of weights, of their sizes.

    Args:
        values: Weighted, a tuple of fp32.
        weights: One each.
        flip: ``SIGN`` where negative values agree, else 0.
    """
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


@inner(forceinline=True)
def flipped(value, flip):
    """Return a number, of the other sign where the flip is the sign's bit."""
    return as_float(u32(as_bits(value) ^ flip))


@unfolded
def _votes(values, xs, i, z, thinning, ballot):
    """Return the sum that elects: of weighted differences, or of votes."""
    if isinstance(ballot.types[0], types.NoneType):
        return lambda values, xs, i, z, thinning, ballot: total(values)
    return lambda values, xs, i, z, thinning, ballot: _tally(
        thinned(xs, i, z, thinning[0], thinning[1]), ballot[0], ballot[1]
    )


@unfolded
def _scaled(value, scale):
    """Return a value times a scale; None for one."""
    if isinstance(scale, types.NoneType):
        return lambda value, scale: value
    return lambda value, scale: value * scale


@inner(forceinline=True)
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


@inner(forceinline=True)
def _elected(xs, base, i, weights, thinning, ballot):
    z = load(base, i)
    return on_base(base, z, elected(xs, i, z, weights, thinning, ballot))


@compiled
def elect(arrays, weights, steps, drawn, ballot):
    """Write ``base + scale * (merged agreeing differences)``.

    Args:
        arrays: Inputs, a tuple; base, an array or None; and result.
        weights: fp32, one per input.
        steps: As for ``sums.add_thinned``.
        drawn: As for ``sums.add_thinned``.
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
def elect_tossed(arrays, weights, start, coins, ballot):
    """As ``elect``, with coins, and otherwise as ``sums.add_tossed``."""
    n = len(arrays[2])
    most = NO
    words = np.empty((len(coins) + 1, BLOCK // 2), np.uint64)
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        drawn = draw(coins, start + low, high - low, words)
        found = elect(windows(arrays, low, high), weights, (), drawn, ballot)
        most = larger(most, found)
    return most
