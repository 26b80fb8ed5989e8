"""Merges that choose among differences entry by entry, one pass, compiled.

The steps, and their order, are those of the operators of the same names: the bits are
the same. All but :func:`take_outstanding` return the bits of the largest size written,
or more than those of any number if a difference is not finite: who chooses might pass
over it.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import NO_STEP
from evomerge.merging.kernels.elections import elected
from evomerge.merging.kernels.entries import deltas_of, put, read, said, total, windows
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    YES,
    ZERO,
    compiled,
    inner,
    larger,
    load,
    size_bits,
    store,
    u32,
    unfolded,
)

_NO_STEP = np.float32(NO_STEP)


@compiled
def nearswap(arrays, t):
    """Move the base towards the input by a step of at most ``t``, fp32."""
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        size = abs(deltas[0])
        share = ONE / (size if size > _NO_STEP else _NO_STEP) * t
        share = share if share < ONE else ONE
        found = put(out, i, deltas[0] * share + z, found)
    return said(found)


@unfolded
def _largest(values, last):
    """Return the value of the largest size; of equals the first, or the last."""
    if len(values) == 1:
        return lambda values, last: values[0]
    if isinstance(last, types.NoneType):

        def first(values, last):
            best = _largest(values[:-1], last)
            return values[-1] if abs(values[-1]) > abs(best) else best

        return first

    def of_equals_last(values, last):
        best = _largest(values[:-1], last)
        return values[-1] if abs(values[-1]) >= abs(best) else best

    return of_equals_last


@compiled
def magmax(arrays, scale, last):
    """Add the largest difference, scaled; of equals the first, unless told (None)."""
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        found = put(out, i, _largest(deltas, last) * scale + z, found)
    return said(found)


@unfolded
def _largest_of_sign(values, sign):
    """Return the size of the largest value that has a sign, zero if none has it."""
    if len(values) == 0:
        return lambda values, sign: ZERO

    def more(values, sign):
        best, mine = _largest_of_sign(values[:-1], sign), values[-1] * sign
        return best if best > mine else mine

    return more


@compiled
def emr(arrays, scale):
    """Add the largest difference that has the sign of their sum, scaled."""
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        sign = ONE if total(deltas) > ZERO else -ONE
        value = _largest_of_sign(deltas, sign) * sign * scale + z
        found = put(out, i, value, found)
    return said(found)


@unfolded
def _active(values, epsilon):
    """Return how many values are larger than epsilon."""
    if len(values) == 0:
        return lambda values, epsilon: ZERO

    def more(values, epsilon):
        mine = ONE if abs(values[-1]) > epsilon else ZERO
        return _active(values[:-1], epsilon) + mine

    return more


@unfolded
def _sum_active(values, epsilon, factors, alone):
    """Return the sum of values larger than epsilon, lone ones times their factor."""
    if len(values) == 0:
        return lambda values, epsilon, factors, alone: ZERO

    def more(values, epsilon, factors, alone):
        before = _sum_active(values[:-1], epsilon, factors[:-1], alone)
        value = values[-1] * (ONE if abs(values[-1]) > epsilon else ZERO)
        return before + value * (factors[-1] if alone else ONE)

    return more


@compiled
def ram(arrays, scale, epsilon, factors):
    """Add the mean of the differences above epsilon, lone ones times their factor."""
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        count = _active(deltas, epsilon)
        merged = _sum_active(deltas, epsilon, factors, count == ONE)
        value = merged / (count if count > ONE else ONE) * scale + z
        found = put(out, i, value, found)
    return said(found)


@unfolded
def _flags(values, epsilon):
    if len(values) == 0:
        return lambda values, epsilon: ()

    def more(values, epsilon):
        mine = YES if abs(values[0]) > epsilon else NO
        return (mine, *_flags(values[1:], epsilon))

    return more


@unfolded
def _count_each(counts, flags, count):
    """Add to pairs of counts what inputs share with others and what they have alone."""
    if len(flags) == 0:
        return lambda counts, flags, count: ()

    def more(counts, flags, count):
        shared, alone = counts[0]
        mine = flags[0]
        both = mine if count > ONE else NO
        now = (u32(shared + both), u32(alone + u32(mine - both)))
        return (now, *_count_each(counts[1:], flags[1:], count))

    return more


@compiled
def count_active(arrays, epsilon, counts):
    """Count what each input has above epsilon, shared with others and alone.

    Args:
        arrays: Inputs, a tuple, of less than ``2**32`` entries; base; and result, which
            is not used.
        epsilon: fp32.
        counts: A pair of zeros for each input, uint32.

    Returns:
        The pairs.
    """
    xs, base, _ = arrays
    for i in range(len(xs[0])):
        deltas = deltas_of(xs, i, load(base, i))
        flags = _flags(deltas, epsilon)
        counts = _count_each(counts, flags, _active(deltas, epsilon))
    return counts


@compiled
def _take_row(arrays, divergence, threshold):
    xs, base, out = arrays
    most = NO
    for i in range(len(out)):
        z = load(base, i)
        delta = load(xs[0], i) - z
        stands_out = ONE if abs(delta) * divergence >= threshold else ZERO
        value = z + delta * stands_out
        store(out, i, value)
        most = larger(most, size_bits(value))
    return most


@compiled
def take_outstanding(arrays, start, divergences, row, threshold):
    """Add to the base the differences whose importance reaches a threshold (Arcee).

    Args:
        arrays: Inputs, a tuple of one; base; and result.
        start: The entry that the arrays begin at.
        divergences: fp32, one per row.
        row: Entries of a row.
        threshold: fp32.

    Returns:
        The bits of the largest size written.
    """
    n = len(arrays[2])
    most, low = NO, 0
    while low < n:
        place = start + low
        high = min(low + row - place % row, n)
        part = windows(arrays, low, high)
        most = larger(most, _take_row(part, divergences[place // row], threshold))
        low = high
    return most


@unfolded
def _users(values, merged, share):
    """Return how many values are above a share of what the others add up to."""
    if len(values) == 0:
        return lambda values, merged, share: ZERO

    def more(values, merged, share):
        mine = ONE if abs(values[-1]) > abs(merged - values[-1]) * share else ZERO
        return _users(values[:-1], merged, share) + mine

    return more


@inner(forceinline=True)
def _used(deltas, merged, use):
    """Return what is merged, scaled, where enough inputs use it, else zero."""
    scale, share, least = use
    kept = ONE if _users(deltas, merged, share) >= least else ZERO
    return merged * kept * scale


@compiled
def consensus(arrays, use):
    """Add the scaled differences of entries that enough inputs use.

    Args:
        arrays: Inputs, a tuple; base; and result.
        use: Scale, share, and how many at least; fp32.
    """
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        found = put(out, i, _used(deltas, total(deltas), use) + z, found)
    return said(found)


@compiled
def consensus_of_ties(arrays, weights, steps, drawn, use):
    """As ``consensus``, of the differences that TIES merges.

    Args:
        arrays: As for ``consensus``, like the use.
        weights: fp32, one per input.
        steps: As for ``elections.elect``.
        drawn: As for ``elections.elect``.
        use: Scale, share, and how many at least.
    """
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        ballot = (None, None, True, None, None)
        merged = elected(xs, i, z, weights, (steps, drawn), ballot)
        found = put(out, i, _used(deltas, merged, use) + z, found)
    return said(found)
