"""A ``form.Contest`` in one pass, compiled: the bits are the same.

Exponentials and tangents take the steps of ``merging.elementary``. Ranges come as low
end, high end and one over their width, fp32.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import BLOCK, NO_WEIGHT
from evomerge.merging.elementary import (
    EXPONENT_BITS,
    LN2_HIGH,
    LN2_LOW,
    LOG2_E,
    MOST,
    NARROW,
    SERIES,
    WIDE,
)
from evomerge.merging.kernels.entries import (
    deltas_of,
    largest_bits,
    said,
    total,
)
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    SIGN,
    ZERO,
    as_bits,
    as_float,
    compiled,
    inlined,
    inner,
    larger,
    load,
    size_bits,
    store,
    u32,
    unfolded,
    windows,
)

_LOG2_E, _MOST = np.float32(LOG2_E), np.float32(MOST)
_HIGH, _LOW = np.float32(LN2_HIGH), np.float32(LN2_LOW)
_SHIFT = np.uint32(EXPONENT_BITS)
_NO_WEIGHT = np.float32(NO_WEIGHT)
_BLOCK = 4 * BLOCK
"""Entries of which those that may win are gathered: enough of them to go round."""
_MOST_AHEAD = 4
"""Blocks in which nothing is told beforehand after several where it did not help."""
_UNIT = np.float32(1 << EXPONENT_BITS)
_BITS_OF_ONE = np.float32(0x3F800000)
_MOST_TURN, _LEAST_TURN = np.float32(0.88), np.float32(0.12)
"""Half of the sum and of the difference of one and 0.76."""


def _numbers(parts):
    return tuple(np.float32(part) for part in parts)


_SERIES = _numbers(SERIES)
_WIDE_ABOVE, _WIDE_BELOW = map(_numbers, WIDE)
_ABOVE, _BELOW = map(_numbers, NARROW)


@inlined
def _polynomial(parts, x):
    if len(parts) == 1:
        return lambda parts, x: parts[0]
    return lambda parts, x: _polynomial(parts[1:], x) * x + parts[0]


@inner(forceinline=True)
def clamped(x, low, high):
    """Return a number, or the end that it lies beyond."""
    x = low if x < low else x
    return high if x > high else x


@inner(forceinline=True)
def exp(x):
    """Return the exponential of an fp32 number from -87 to 88."""
    doublings = np.float32(np.rint(x * _LOG2_E))
    rest = (x - doublings * _HIGH) - doublings * _LOW
    grown = u32(np.uint32(np.int32(doublings)) << _SHIFT)
    return as_float(u32(as_bits(_polynomial(_SERIES, rest)) + grown))


@inner(forceinline=True)
def tanh(x):
    """Return the hyperbolic tangent of an fp32 number."""
    x = clamped(x, -_MOST, _MOST)
    square = x * x
    slope = x * _polynomial(_WIDE_ABOVE, square) / _polynomial(_WIDE_BELOW, square)
    return clamped(slope, -ONE, ONE)


@inner(forceinline=True)
def tanh_of_part(x):
    """Return the hyperbolic tangent of an fp32 number from -1 to 1."""
    square = x * x
    return x * _polynomial(_ABOVE, square) / _polynomial(_BELOW, square)


@inner(forceinline=True)
def _part(value, ends):
    low, high, factor = ends
    return (clamped(value, low, high) - low) * factor


@inner(forceinline=True)
def _signed(size, value):
    """Return a size with the sign of a value; zero for zero."""
    found = as_float(u32(as_bits(size) | u32(as_bits(value) & SIGN)))
    return found if abs(value) > ZERO else ZERO


@inlined
def _normals(deltas, sizes):
    """Return differences by size from 0 to 1, with their signs."""
    if len(deltas) == 0:
        return lambda deltas, sizes: ()
    return lambda deltas, sizes: (
        _signed(_part(abs(deltas[0]), sizes[0]), deltas[0]),
        *_normals(deltas[1:], sizes[1:]),
    )


@inlined
def _agreement(mine, others):
    """Return how well others agree with one: each on its own, or their sum."""
    if not isinstance(others, types.BaseTuple):
        return lambda mine, others: tanh(others * mine)
    if len(others) == 0:
        return lambda mine, others: ZERO

    def more(mine, others):
        before = _agreement(mine, others[:-1])
        return before + tanh_of_part(others[-1] * mine)

    return more


@inlined
def _against(deltas, normals, pairwise):
    """Return whom inputs compete with: each with each, or (None) with the sum."""
    if isinstance(pairwise, types.NoneType):
        return lambda deltas, normals, pairwise: ZERO + total(deltas)
    return lambda deltas, normals, pairwise: normals


@inner(forceinline=True)
def _score(own, normal, others, n):
    within = abs(normal)
    return exp(within * within * n) * _agreement(own, others)


@inlined
def _won(own, normals, others, n, ranges):
    """Return what every input won."""
    if len(own) == 0:
        return lambda own, normals, others, n, ranges: ()
    return lambda own, normals, others, n, ranges: (
        _part(_score(own[0], normals[0], others, n), ranges[0]),
        *_won(own[1:], normals[1:], others, n, ranges[1:]),
    )


@inlined
def _taken(deltas, sizes, weights, won):
    """Return the sum of clipped and weighted differences times what they won."""
    if len(deltas) == 0:
        return lambda deltas, sizes, weights, won: ZERO

    def more(deltas, sizes, weights, won):
        before = _taken(deltas[:-1], sizes[:-1], weights[:-1], won[:-1])
        low, high, _ = sizes[-1]
        size = _signed(clamped(abs(deltas[-1]), low, high), deltas[-1])
        return before + size * weights[-1] * won[-1]

    return more


@inlined
def _own(deltas, normals, pairwise):
    """Return what inputs compete with: their sizes, or (None) their differences."""
    if isinstance(pairwise, types.NoneType):
        return lambda deltas, normals, pairwise: deltas
    return lambda deltas, normals, pairwise: normals


@compiled
def _compete(arrays, sizes, ranges, weights, pairwise):
    xs, base, out = arrays
    n = np.float32(len(xs))
    most, widest = NO, NO
    for i in range(len(out)):
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        widest = larger(widest, largest_bits(deltas))
        normals = _normals(deltas, sizes)
        others = _against(deltas, normals, pairwise)
        won = _won(_own(deltas, normals, pairwise), normals, others, n, ranges)
        under = ZERO + total(won)
        under = under if under > _NO_WEIGHT else _NO_WEIGHT
        taken = _taken(deltas, sizes, weights, won) / under
        store(out, i, taken + z)
        most = larger(most, size_bits(taken + z))
    return most, widest


@inlined
def _sizes_of(values):
    if len(values) == 0:
        return lambda values: ()
    return lambda values: (abs(values[0]), *_sizes_of(values[1:]))


@inlined
def _most_agreement(deltas, normals, pairwise):
    """Return, for each input, at least as much as how well others agree with it.

    Up to one a tangent lies between 0.76 times its angle and the angle; so it does
    where others are seen by their sum, which is never more than the angle.
    """
    if not isinstance(pairwise, types.NoneType):

        def each(deltas, normals, pairwise):
            with_sign = _MOST_TURN * total(normals)
            without = _LEAST_TURN * total(_sizes_of(normals))
            return _products(normals, with_sign, without)

        return each
    return lambda deltas, normals, pairwise: _products(deltas, total(deltas), ZERO)


@inlined
def _products(values, with_sign, without):
    if len(values) == 0:
        return lambda values, with_sign, without: ()
    return lambda values, with_sign, without: (
        values[0] * with_sign + abs(values[0]) * without,
        *_products(values[1:], with_sign, without),
    )


@inlined
def _may_win(normals, agreement, growth, edges):
    """Tell whether an input's score may be above its edge."""
    if len(normals) == 0:
        return lambda normals, agreement, growth, edges: False

    def more(normals, agreement, growth, edges):
        before = _may_win(normals[1:], agreement[1:], growth, edges[1:])
        # The bits of a power of two, read off between the whole ones on a straight
        # line, which runs above the curve.
        bits = np.int32(normals[0] * normals[0] * growth + _BITS_OF_ONE)
        most = agreement[0] if agreement[0] > ZERO else ZERO
        return before | (as_float(np.uint32(bits)) * most > edges[0])

    return more


@compiled
def _mark(arrays, sizes, edges, pairwise, marks):
    """Write the base; mark the entries that an input may win."""
    xs, base, out = arrays
    growth = np.float32(len(xs)) * _LOG2_E * _UNIT
    most, widest = NO, NO
    for i in range(len(out)):
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        widest = larger(widest, largest_bits(deltas))
        normals = _normals(deltas, sizes)
        agreement = _most_agreement(deltas, normals, pairwise)
        marks[i] = _may_win(normals, agreement, growth, edges)
        store(out, i, ZERO + z)
        most = larger(most, size_bits(z))
    return most, widest


@compiled
def _marked(marks, places):
    """Write the places of marks; return how many there are."""
    count = 0
    for i in range(len(marks)):
        places[count] = i
        count += marks[i]
    return count


@unfolded
def _rows(xs, space):
    if len(xs) == 0:
        return lambda xs, space: ()
    return lambda xs, space: (space[0], *_rows(xs[1:], space[1:]))


@unfolded
def _gather(xs, places, into):
    """Read some entries of every input."""
    if len(xs) == 0:
        return lambda xs, places, into: None

    def more(xs, places, into):
        x, row = xs[0], into[0]
        for k in range(len(places)):
            row[k] = load(x, places[k])
        _gather(xs[1:], places, into[1:])

    return more


@compiled
def compete(arrays, how, pairwise):
    """Average every entry by what its differences win.

    Few entries win anything. Whether one may is told from a bound that takes no
    exponential and no tangent; those that may are gathered, and only they compete.

    Args:
        arrays: Inputs, a tuple; base; and result.
        how: Per input the range that the sizes of its differences are brought to, that
            of the scores that count, its weight, and what a bound on its score must be
            above where it wins anything; fp32.
        pairwise: None if inputs compete with the sum of all.

    Returns:
        The bits of the largest size written, or more; see ``elementwise``.
    """
    sizes, ranges, weights, edges = how
    xs, _, out = arrays
    most, widest = NO, NO
    marks, places = np.empty(_BLOCK, np.bool_), np.empty(_BLOCK + 1, np.int32)
    space = np.empty((len(xs) + 2, _BLOCK), np.float32)
    ahead, patience = 0, 1
    for low in range(0, len(out), _BLOCK):
        part = windows(arrays, low, min(low + _BLOCK, len(out)))
        n = len(part[2])
        number = n
        if ahead == 0:
            found = _mark(part, sizes, edges, pairwise, marks[:n])
            most, widest = larger(most, found[0]), larger(widest, found[1])
            number = _marked(marks[:n], places)
            # Where many may win in one block, many may in the next ones, too.
            patience = min(2 * patience, _MOST_AHEAD) if number > n // 2 else 1
            ahead = patience
        ahead -= 1
        if number > n // 2:
            found = _compete(part, sizes, ranges, weights, pairwise)
            most, widest = larger(most, found[0]), larger(widest, found[1])
        elif number > 0:
            chosen = places[:number]
            some = windows((_rows(xs, space), space[-2], space[-1]), 0, number)
            _gather(part[0], chosen, some[0])
            _gather((part[1],), chosen, (some[1],))
            found = _compete(some, sizes, ranges, weights, pairwise)
            most = larger(most, found[0])
            for k in range(number):
                store(part[2], chosen[k], some[2][k])
    return said(most, widest)


@compiled
def scores(arrays, sizes, mine, pairwise, out):
    """Write one input's scores, fp32.

    Args:
        arrays: Inputs, a tuple; and base.
        sizes: Per input the range that the sizes of its differences are brought to.
        mine: The input itself, and its range.
        pairwise: As for ``compete``.
        out: fp32.
    """
    xs, base = arrays
    x, size = mine
    n = np.float32(len(xs))
    for i in range(len(out)):
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        normals = _normals(deltas, sizes)
        delta = load(x, i) - z
        normal = _signed(_part(abs(delta), size), delta)
        (own,) = _own((delta,), (normal,), pairwise)
        out[i] = _score(own, normal, _against(deltas, normals, pairwise), n)
