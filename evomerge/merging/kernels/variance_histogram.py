"""Entries in the order of how much the inputs vary, and squares summed in that order.

As in ``order_statistics`` numbers order like their bits, here looked at in three parts:
the high half, the next eight bits and the last eight. A table for each part says what
is known of a key by then: a number below zero stands for an interval between cuts, ``-1
- interval``; another one is a row of the next table or, in the last, one of the keys
that are cuts.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np

from evomerge.merging.constants import BLOCK, CELLS
from evomerge.merging.kernels.numbers import (
    ZERO,
    as_bits,
    compiled,
    load,
    u32,
    unfolded,
    windows,
)

HIGH_BINS = 1 << 15
BINS = 1 << 8

_BYTE = np.uint32(0xFF)
_REST = np.uint32(0x7FFFFFFF)
_FRACTION, _HIDDEN = np.uint32(0x7FFFFF), np.uint32(0x800000)


@unfolded
def wide_sum(xs, i, z):
    """Return the sum of the differences in fp64, first to last."""
    if len(xs) == 1:
        return lambda xs, i, z: np.float64(load(xs[0], i) - z)
    return lambda xs, i, z: wide_sum(xs[:-1], i, z) + np.float64(load(xs[-1], i) - z)


@unfolded
def squares(xs, i, z, mean):
    """Return the sum of the squared distances from the mean, first to last."""
    if len(xs) == 0:
        return lambda xs, i, z, mean: np.float64(0.0)

    def more(xs, i, z, mean):
        apart = np.float64(load(xs[-1], i) - z) - mean
        return squares(xs[:-1], i, z, mean) + apart * apart

    return more


@compiled
def _keys_in(xs, base, keys):
    for i in range(len(keys)):
        z = load(base, i)
        mean = wide_sum(xs, i, z) / np.float64(len(xs))
        variance = np.float32(squares(xs, i, z, mean) / np.float64(len(xs)))
        keys[i] = u32(as_bits(variance) & _REST)


@compiled
def _keys(xs, base, start, keys):
    """Read the bits of variances; what is no number is larger than all numbers."""
    stop = start + len(keys)
    # Places count from a part's first entry: sums of places would not be vectorised.
    _keys_in(windows(xs, start, stop), windows(base, start, stop), keys)


@compiled
def count_high(xs, base, counts):
    """Count the entries of each high half: int64, shape ``(HIGH_BINS,)``.

    Args:
        xs: Inputs, a tuple.
        base: Of their length, or None.
        counts: Added to.

    Returns:
        How many entries have no variance.
    """
    bits = np.empty(BLOCK, np.uint32)
    zeros = np.int64(0)
    for low in range(0, len(xs[0]), BLOCK):
        keys = bits[: min(BLOCK, len(xs[0]) - low)]
        _keys(xs, base, low, keys)
        for key in keys:
            zeros += key == 0
            counts[key >> np.uint32(16)] += 1
    return zeros


@compiled
def count_middle(xs, base, heads, counts):
    """Count the next eight bits within chosen high halves.

    Args:
        xs: Inputs, a tuple.
        base: Of their length, or None.
        heads: int32, shape ``(HIGH_BINS,)``.
        counts: int64, shape ``(rows, BINS)``; added to.
    """
    bits = np.empty(BLOCK, np.uint32)
    for low in range(0, len(xs[0]), BLOCK):
        keys = bits[: min(BLOCK, len(xs[0]) - low)]
        _keys(xs, base, low, keys)
        for key in keys:
            row = heads[key >> np.uint32(16)]
            if row >= 0:
                counts[row, (key >> np.uint32(8)) & _BYTE] += 1


@compiled
def count_low(xs, base, tables, counts):
    """Count the last eight bits within chosen values of the others.

    Args:
        xs: As for ``count_middle``.
        base: As for ``count_middle``.
        tables: Of the high halves; and of the next bits, int32, shape ``(rows, BINS)``.
        counts: int64, shape ``(rows, BINS)``; added to.
    """
    heads, middles = tables
    bits = np.empty(BLOCK, np.uint32)
    for low in range(0, len(xs[0]), BLOCK):
        keys = bits[: min(BLOCK, len(xs[0]) - low)]
        _keys(xs, base, low, keys)
        for key in keys:
            row = heads[key >> np.uint32(16)]
            if row < 0:
                continue
            row = middles[row, (key >> np.uint32(8)) & _BYTE]
            if row >= 0:
                counts[row, key & _BYTE] += 1


@unfolded
def _add_squares(xs, i, z, sums):
    """Add each input's squared difference, without rounding, to its row of cells."""
    if len(xs) == 0:
        return lambda xs, i, z, sums: None

    def more(xs, i, z, sums):
        delta = load(xs[-1], i) - z
        bits = as_bits(delta * delta)
        exponent = np.int64((bits >> np.uint32(23)) & _BYTE)
        fraction = np.int64(bits & _FRACTION)
        row = sums[len(xs) - 1]
        if exponent == 0:  # too small for an exponent of its own
            row[0] += fraction << 1
        elif exponent == 255:
            row[CELLS] += 1
        else:
            row[exponent >> 2] += (fraction | np.int64(_HIDDEN)) << (exponent & 3)
        _add_squares(xs[:-1], i, z, sums)

    return more


@compiled
def add_squares(values, sums):
    """Add the squares of fp32 numbers, without rounding, to cells (one row)."""
    for i in range(len(values)):
        _add_squares((values,), i, ZERO, sums)


@compiled
def gather(xs, base, tables, wanted, found):
    """Sum squares between cuts, and find the last entry that each cut keeps.

    Args:
        xs: Inputs, a tuple.
        base: Of their length, or None.
        tables: Of the high halves, the next bits and the last, int32.
        wanted: int64, shape ``(keys + 1,)``: where each key's cuts begin in the other;
            and int64: how many entries of its key a cut keeps, ascending within it.
        found: int64: the flat index for each cut; sums, shape ``(cuts + 1, inputs,
            CELLS + 1)``: one row for what each cut keeps and the one before does not,
            and one for the rest; and the lowest and the highest key of each row, shape
            ``(cuts + 1, 2)``, keys that are cuts aside.
    """
    heads, middles, lows = tables
    firsts, numbers = wanted
    places, sums, ends = found
    bits = np.empty(BLOCK, np.uint32)
    seen = np.zeros(len(firsts) - 1, np.int64)
    following = firsts.copy()
    n = len(xs[0])
    for low in range(0, n, BLOCK):
        keys = bits[: min(BLOCK, n - low)]
        _keys(xs, base, low, keys)
        for j in range(len(keys)):
            i, key = low + j, keys[j]
            at = heads[key >> np.uint32(16)]
            if at >= 0:
                at = middles[at, (key >> np.uint32(8)) & _BYTE]
                if at >= 0:
                    at = lows[at, key & _BYTE]
            interval = np.int64(-1 - at)
            if at >= 0:
                seen[at] += 1
                interval = following[at]
                if interval < firsts[at + 1] and numbers[interval] == seen[at]:
                    places[interval] = i
                    following[at] += 1
            else:
                ends[interval, 0] = min(ends[interval, 0], np.int64(key))
                ends[interval, 1] = max(ends[interval, 1], np.int64(key))
            _add_squares(xs, i, load(base, i), sums[interval])
