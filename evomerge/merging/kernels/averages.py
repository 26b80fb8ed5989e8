"""Averages of those who agree, where the inputs vary most, compiled.

The steps, and their order, are those of ``sums.sce`` and ``sums.ties``: the bits are
the same.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import BLOCK
from evomerge.merging.kernels.elections import agreeing, flipped
from evomerge.merging.kernels.entries import deltas_of, times, total, weighted, windows
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    SIGN,
    YES,
    ZERO,
    compiled,
    inner,
    larger,
    load,
    places,
    u32,
    unfolded,
    write,
)
from evomerge.merging.kernels.variance_histogram import squares, wide_sum

_MOST_AHEAD = 16
"""Blocks that are not guessed after several that could not be."""


@inner(forceinline=True)
def _reaches(xs, base, i, edge):
    """Return 1.0 where the squared distances sum to an edge or more, else 0.0."""
    z = load(base, i)
    mean = wide_sum(xs, i, z) / np.float64(len(xs))
    return ONE if squares(xs, i, z, mean) >= edge else ZERO


@compiled
def _mark(xs, base, edge, kept):
    """Write which entries stay: for the first ones of words, and for the second."""
    first, second = kept
    for i in range(len(xs[0])):
        one, two = places(xs[0], i)
        first[i] = _reaches(xs, base, one, edge)
        second[i] = _reaches(xs, base, two, edge)


@unfolded
def _flag(kept, i):
    if isinstance(i, types.Integer):
        return lambda kept, i: kept[0][i]
    return lambda kept, i: kept[1][i[0]] if i[1] else kept[0][i[0]]


@unfolded
def _left(values, kept, i):
    """Return the values where the entry is kept; all for None."""
    if isinstance(kept, types.NoneType):
        return lambda values, kept, i: values
    # Times zero, so that what is no number stays none.
    return lambda values, kept, i: times(values, _flag(kept, i))


@unfolded
def _apart(values, first):
    """Return the sums of distances from the first value, and of their squares."""
    if len(values) == 0:
        return lambda values, first: (ZERO, ZERO)

    def more(values, first):
        before, squared = _apart(values[:-1], first)
        apart = values[-1] - first
        return before + apart, squared + apart * apart

    return more


@inner(forceinline=True)
def _guess(deltas, bounds):
    """Tell in fp32 whether squared distances reach an edge, and whether that is sure.

    The rounding of differences from one value, unlike that of those from a mean, stays
    small beside their squares.
    """
    low, middle, high = bounds
    plain, squared = _apart(deltas[1:], deltas[0])
    spread = squared - plain * plain * (ONE / np.float32(len(deltas)))
    kept = ONE if spread >= middle else ZERO
    # So that what is no number is not sure.
    unsure = NO if (spread <= low) | (spread >= high) else YES
    return kept, unsure


@inner(forceinline=True)
def _merged(left, weights, scale):
    """Return the scaled mean of those who agree."""
    flip = NO if total(left) >= ZERO else SIGN
    merged, under, _ = agreeing(weighted(left, weights), weights, flip)
    divisor = under if under != ZERO else ONE
    return flipped(merged / divisor, flip) * scale


@inner(forceinline=True)
def _averaged(xs, base, i, weights, scale, kept):
    z = load(base, i)
    left = _left(deltas_of(xs, i, z), kept, i)
    return _merged(left, weights, scale) + z


@compiled
def _average(arrays, weights, scale, kept):
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        one, two = places(out, i)
        first = _averaged(xs, base, one, weights, scale, kept)
        second = _averaged(xs, base, two, weights, scale, kept)
        most = larger(most, write(out, i, first, second))
    return most


@inner(forceinline=True)
def _averaged_guessed(xs, base, i, weights, scale, bounds):
    z = load(base, i)
    deltas = deltas_of(xs, i, z)
    kept, doubt = _guess(deltas, bounds)
    return _merged(times(deltas, kept), weights, scale) + z, doubt


@compiled
def _average_guessed(arrays, weights, scale, bounds):
    """As ``_average``; return also not zero if of an entry nothing is sure."""
    xs, base, out = arrays
    most, unsure = NO, NO
    for i in range(len(out)):
        one, two = places(out, i)
        first, doubt = _averaged_guessed(xs, base, one, weights, scale, bounds)
        second, more = _averaged_guessed(xs, base, two, weights, scale, bounds)
        unsure = u32(unsure | u32(doubt | more))
        most = larger(most, write(out, i, first, second))
    return most, unsure


@compiled
def average(arrays, weights, scale):
    """Write ``base + scale * (weighted mean of the differences of the common sign)``.

    Args:
        arrays: Inputs, a tuple; base; and result.
        weights: fp32, one per input, none below zero.
        scale: fp32.

    Returns:
        The bits of the largest size written.
    """
    return _average(arrays, weights, scale, None)


@compiled
def average_where(arrays, weights, scale, edge, bounds):
    """As ``average``, of the entries whose squared distances sum to an edge or more.

    Args:
        arrays: As for ``average``, like what follows.
        weights: One per input.
        scale: On the mean.
        edge: fp64.
        bounds: fp32: up to where a sum in fp32 is surely below the edge; the edge; and
            from where it is surely above.

    Returns:
        The bits of the largest size written.
    """
    n = len(arrays[2])
    most = NO
    flags = np.empty((2, BLOCK), np.float32)
    ahead, patience = 0, 1
    for low in range(0, n, BLOCK):
        high = min(low + BLOCK, n)
        part = windows(arrays, low, high)
        found, unsure = NO, YES
        if ahead == 0:
            found, unsure = _average_guessed(part, weights, scale, bounds)
            # Where one block has entries near the edge, the next ones have them too.
            patience = min(2 * patience, _MOST_AHEAD) if unsure else 1
            ahead = patience
        ahead -= 1
        if unsure:
            kept = (flags[0][: high - low], flags[1][: high - low])
            _mark(part[0], part[1], edge, kept)
            found = _average(part, weights, scale, kept)
        most = max(most, found)
    return most
