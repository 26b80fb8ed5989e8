"""Order statistics of the sizes of differences, and ranks within rows, compiled.

Sizes are not negative, so they order like their bits: a histogram of the high halves,
then one of the low halves within the bins that matter, give every order statistic
exactly, in linear time and without a copy of the sizes.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np

from evomerge.merging.constants import BLOCK
from evomerge.merging.kernels.numbers import (
    NO,
    YES,
    as_bits,
    compiled,
    load,
    u32,
    windows,
)

HIGH_BINS = 1 << 15
LOW_BINS = 1 << 16


@compiled
def _keys_in(x, base, keys):
    for i in range(len(keys)):
        keys[i] = as_bits(abs(load(x, i) - load(base, i)))


@compiled
def _keys(x, base, start, keys):
    """Read the bits of sizes; what is no number is larger than all numbers."""
    stop = start + len(keys)
    # Places count from a part's first entry: sums of places would not be vectorised.
    _keys_in(windows(x, start, stop), windows(base, start, stop), keys)


@compiled
def keys_at(x, base, places):
    """Return the bits of the sizes of a few entries: uint32."""
    keys = np.empty(len(places), np.uint32)
    for i in range(len(places)):
        place = places[i]
        keys[i] = as_bits(abs(load(x, place) - load(base, place)))
    return keys


@compiled
def _count_above(keys, edge):
    larger = np.uint32(0)
    for key in keys:
        larger = u32(larger + (YES if key > edge else NO))
    return np.int64(larger)


@compiled
def _count_equal(keys, wanted):
    equal = np.uint32(0)
    for key in keys:
        equal = u32(equal + (YES if key == wanted else NO))
    return np.int64(equal)


@compiled
def collect(x, base, edges, found):
    """Collect the entries within a few ranges of sizes, and count those above each.

    Args:
        x: The input, flat.
        base: Of its length, or None.
        edges: uint32, shape ``(ranges, 2)``: the smallest and the largest size wanted;
            where they are equal, entries are only counted.
        found: The result: sizes, uint32, and flat indices, int64, both of shape
            ``(ranges, room)``; and, int64 of shape ``(ranges, 2)``, how many entries
            are above and how many were found, -1 if there is no room for them.
    """
    sizes, places, numbers = found
    bits = np.empty(BLOCK, np.uint32)
    numbers[:] = 0
    for start in range(0, len(x), BLOCK):
        keys = bits[: min(BLOCK, len(x) - start)]
        _keys(x, base, start, keys)
        for r in range(len(edges)):
            low, high, number = edges[r, 0], edges[r, 1], numbers[r, 1]
            numbers[r, 0] += _count_above(keys, high)
            if low == high:
                numbers[r, 1] += _count_equal(keys, low)
            elif number < 0 or number + len(keys) > sizes.shape[1]:
                numbers[r, 1] = -1
            else:
                numbers[r, 1] = _append(
                    keys, start, (low, high), (sizes[r], places[r]), number
                )


@compiled
def _append(keys, start, edges, found, number):
    sizes, places = found
    low, width = edges[0], u32(edges[1] - edges[0])
    for i in range(len(keys)):
        # One comparison, which is rarely true: two would often be guessed wrongly.
        if u32(keys[i] - low) <= width:
            sizes[number] = keys[i]
            places[number] = start + i
            number += 1
    return number


@compiled
def nth_equal(x, base, key, wanted):
    """Return the flat index of the so-many-th entry of one size, from 1."""
    bits = np.empty(BLOCK, np.uint32)
    for start in range(0, len(x), BLOCK):
        keys = bits[: min(BLOCK, len(x) - start)]
        _keys(x, base, start, keys)
        equal = _count_equal(keys, key)
        if equal < wanted:
            wanted -= equal
            continue
        for i in range(len(keys)):
            wanted -= keys[i] == key
            if wanted == 0:
                return np.int64(start + i)
    return np.int64(-1)


@compiled
def count_high(x, base, counts):
    """Count the entries of each high half: int64, shape ``(HIGH_BINS,)``."""
    bits = np.empty(BLOCK, np.uint32)
    for start in range(0, len(x), BLOCK):
        length = min(BLOCK, len(x) - start)
        _keys(x, base, start, bits[:length])
        for i in range(length):
            counts[bits[i] >> np.uint32(16)] += 1


@compiled
def count_low(x, base, groups, counts):
    """Count the low halves within chosen high halves.

    Args:
        x: The input, flat.
        base: Of its length, or None.
        groups: int32, shape ``(HIGH_BINS,)``: row of ``counts``, -1 to leave it out.
        counts: int64, shape ``(rows, LOW_BINS)``.
    """
    bits = np.empty(BLOCK, np.uint32)
    for start in range(0, len(x), BLOCK):
        length = min(BLOCK, len(x) - start)
        _keys(x, base, start, bits[:length])
        for i in range(length):
            group = groups[bits[i] >> np.uint32(16)]
            if group >= 0:
                counts[group, bits[i] & np.uint32(0xFFFF)] += 1


@compiled
def find_ties(x, base, table, wanted, places):
    """Find the flat index of the so-many-th entry of chosen sizes.

    Args:
        x: The input, flat.
        base: Of its length, or None.
        table: Groups as for ``count_low``; and int32, shape ``(rows, LOW_BINS)``: the
            number of the size, -1 for the rest.
        wanted: int64, shape ``(sizes + 1,)``: where each size's entries begin in the
            other; and int64: which entries of the size, from 1, ascending within it.
        places: int64, as long: the answer.
    """
    groups, marks = table
    firsts, numbers = wanted
    bits = np.empty(BLOCK, np.uint32)
    seen = np.zeros(len(firsts) - 1, np.int64)
    following = firsts.copy()
    for start in range(0, len(x), BLOCK):
        length = min(BLOCK, len(x) - start)
        _keys(x, base, start, bits[:length])
        for i in range(length):
            group = groups[bits[i] >> np.uint32(16)]
            if group < 0:
                continue
            mark = marks[group, bits[i] & np.uint32(0xFFFF)]
            if mark < 0:
                continue
            seen[mark] += 1
            at = following[mark]
            while at < firsts[mark + 1] and numbers[at] == seen[mark]:
                places[at] = start + i
                at += 1
            following[mark] = at


@compiled
def pair_rows(x, base, start, pairs):
    """Pair the size of each entry, in the high half, with its place in the row.

    Places count from the row's end: of equals, those that come last are smallest.

    Args:
        x: The input, flat.
        base: Of its length, or None.
        start: Where the first row begins.
        pairs: uint64, shape ``(rows, row)``: the result.
    """
    rows, row = pairs.shape
    bits = np.empty(row, np.uint32)
    for r in range(rows):
        _keys(x, base, start + r * row, bits)
        mine = pairs[r]
        for i in range(row):
            mine[i] = (np.uint64(bits[i]) << np.uint64(32)) | np.uint64(row - 1 - i)


@compiled
def spread_ranks(pairs, ranks):
    """Write each entry's rank in its row from pairs in ascending order.

    Args:
        pairs: uint64, shape ``(rows, row)``, as of :func:`pair_rows`, rows sorted.
        ranks: uint16, flat: the result, 0 for the smallest.
    """
    rows, row = pairs.shape
    for r in range(rows):
        mine, out = pairs[r], ranks[r * row : (r + 1) * row]
        for i in range(row):
            from_end = np.int64(mine[i] & np.uint64(0xFFFFFFFF))
            out[row - 1 - from_end] = np.uint16(i)
