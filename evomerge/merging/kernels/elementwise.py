"""Merges that choose among differences entry by entry, one pass, compiled.

The steps, and their order, are those of the operators of the same names: the bits are
the same. Inputs come as tuples, which the overloads below unfold. All return the bits
of the largest size written, or more than those of any number if a difference is not
finite: who chooses might pass over it.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types
from numba.extending import overload

from evomerge.merging.kernels.entries import deltas_of, total
from evomerge.merging.kernels.numbers import (
    FULL,
    NO,
    ONE,
    YES,
    ZERO,
    compiled,
    load,
    size_bits,
    store,
    u32,
)

_NO_STEP = np.float32(1e-6)


def _largest_bits(values):
    raise NotImplementedError("only in compiled code")


@overload(_largest_bits)
def _largest_bits_of(values):
    if len(values) == 0:
        return lambda values: NO

    def more(values):
        before, mine = _largest_bits(values[:-1]), size_bits(values[-1])
        return mine if mine > before else before

    return more


@compiled
def put(out, i, value, found):
    """Write a value; return the largest bits written and read, with those before."""
    store(out, i, value)
    size = size_bits(value)
    most, widest = found
    return (size if size > most else most), widest


@compiled
def wider(deltas, found):
    """Return the largest bits written and read, with what is read now."""
    most, widest = found
    size = _largest_bits(deltas)
    return most, (size if size > widest else widest)


@compiled
def said(found):
    """Return the largest bits written; more than any number's if those read have it."""
    most, widest = found
    return most if widest < FULL else np.uint32(0xFFFFFFFF)


@compiled
def nearswap(arrays, t):
    """Move the base towards the input by a step of at most ``t``, fp32."""
    xs, base, out = arrays
    found = (NO, NO)
    for i in range(len(out)):
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        found = wider(deltas, found)
        size = abs(deltas[0])
        share = ONE / (size if size > _NO_STEP else _NO_STEP) * t
        share = share if share < ONE else ONE
        found = put(out, i, deltas[0] * share + z, found)
    return said(found)


def _largest(values, last):
    raise NotImplementedError("only in compiled code")


@overload(_largest)
def _largest_of(values, last):
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
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        found = wider(deltas, found)
        found = put(out, i, _largest(deltas, last) * scale + z, found)
    return said(found)


def _largest_of_sign(values, sign):
    raise NotImplementedError("only in compiled code")


@overload(_largest_of_sign)
def _largest_with_sign(values, sign):
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
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        found = wider(deltas, found)
        sign = ONE if total(deltas) > ZERO else -ONE
        value = _largest_of_sign(deltas, sign) * sign * scale + z
        found = put(out, i, value, found)
    return said(found)


def _active(values, epsilon):
    raise NotImplementedError("only in compiled code")


@overload(_active)
def _active_of(values, epsilon):
    """Return how many values are larger than epsilon."""
    if len(values) == 0:
        return lambda values, epsilon: ZERO

    def more(values, epsilon):
        mine = ONE if abs(values[-1]) > epsilon else ZERO
        return _active(values[:-1], epsilon) + mine

    return more


def _sum_active(values, epsilon, factors, alone):
    raise NotImplementedError("only in compiled code")


@overload(_sum_active)
def _sum_active_of(values, epsilon, factors, alone):
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
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        found = wider(deltas, found)
        count = _active(deltas, epsilon)
        merged = _sum_active(deltas, epsilon, factors, count == ONE)
        value = merged / (count if count > ONE else ONE) * scale + z
        found = put(out, i, value, found)
    return said(found)


def _flags(values, epsilon):
    raise NotImplementedError("only in compiled code")


@overload(_flags)
def _flags_of(values, epsilon):
    if len(values) == 0:
        return lambda values, epsilon: ()

    def more(values, epsilon):
        mine = YES if abs(values[0]) > epsilon else NO
        return (mine, *_flags(values[1:], epsilon))

    return more


def _count_each(counts, flags, count):
    raise NotImplementedError("only in compiled code")


@overload(_count_each)
def _count_each_of(counts, flags, count):
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
