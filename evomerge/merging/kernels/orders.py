"""Order statistics of the sizes of differences, and ranks within rows, compiled.

Sizes are not negative, so they order like their bits: a histogram of the high halves,
then one of the low halves within the bins that matter, give every order statistic
exactly, in linear time and without a copy of the sizes.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np

from evomerge.merging.kernels.numbers import BLOCK, as_bits, compiled, load

HIGH_BINS = 1 << 15
LOW_BINS = 1 << 16


@compiled
def _keys(x, base, start, keys):
    """Read the bits of sizes; what is no number is larger than all numbers."""
    for i in range(len(keys)):
        keys[i] = as_bits(abs(load(x, start + i) - load(base, start + i)))


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
def rank_rows(x, base, row, low, high, ranks):
    """Write each entry's rank in its row: 0 for the smallest, equals last first.

    Args:
        x: The input, flat.
        base: Of its length, or None.
        row: Entries a row, at most 65536.
        low: First row.
        high: End.
        ranks: uint16, flat: the result.
    """
    bits = np.empty(row, np.uint32)
    one, two = np.empty(row, np.uint64), np.empty(row, np.uint64)
    counts = np.empty((4, 256), np.int64)
    for r in range(low, high):
        _keys(x, base, r * row, bits)
        counts[:] = 0
        for i in range(row):
            key = bits[i]
            one[i] = (np.uint64(key) << np.uint64(32)) | np.uint64(row - 1 - i)
            for digit in range(4):
                counts[digit, (key >> np.uint32(8 * digit)) & np.uint32(0xFF)] += 1
        # Equals rank by place, the first highest: sort from the last entry on.
        for i in range(row // 2):
            one[i], one[row - 1 - i] = one[row - 1 - i], one[i]
        for digit in range(4):
            place = 0
            for value in range(256):
                here = counts[digit, value]
                counts[digit, value] = place
                place += here
            shift = np.uint64(32 + 8 * digit)
            for i in range(row):
                bin_ = np.int64((one[i] >> shift) & np.uint64(0xFF))
                two[counts[digit, bin_]] = one[i]
                counts[digit, bin_] += 1
            one, two = two, one
        out = ranks[r * row : (r + 1) * row]
        for i in range(row):
            entry = row - 1 - np.int64(one[i] & np.uint64(0xFFFFFFFF))
            out[entry] = np.uint16(i)
