"""The competition of ``elementwise.pcb`` in one pass, compiled: the bits are the same.

Exponentials and tangents take the steps of ``merging.elementary``. Ranges come as low
end, high end and one over their width, fp32.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import NO_WEIGHT
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
from evomerge.merging.kernels.entries import deltas_of, put, read, said, total
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    ZERO,
    as_bits,
    as_float,
    compiled,
    inlined,
    inner,
    load,
    u32,
)

_LOG2_E, _MOST = np.float32(LOG2_E), np.float32(MOST)
_HIGH, _LOW = np.float32(LN2_HIGH), np.float32(LN2_LOW)
_SHIFT = np.uint32(EXPONENT_BITS)
_NO_WEIGHT = np.float32(NO_WEIGHT)


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
def _sign(value):
    up = ONE if value > ZERO else ZERO
    return up - (ONE if value < ZERO else ZERO)


@inlined
def _normals(deltas, sizes):
    """Return differences by size from 0 to 1, with their signs."""
    if len(deltas) == 0:
        return lambda deltas, sizes: ()
    return lambda deltas, sizes: (
        _part(abs(deltas[0]), sizes[0]) * _sign(deltas[0]),
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
        size = clamped(abs(deltas[-1]), low, high) * _sign(deltas[-1])
        return before + size * weights[-1] * won[-1]

    return more


@inlined
def _own(deltas, normals, pairwise):
    """Return what inputs compete with: their sizes, or (None) their differences."""
    if isinstance(pairwise, types.NoneType):
        return lambda deltas, normals, pairwise: deltas
    return lambda deltas, normals, pairwise: normals


@compiled
def compete(arrays, sizes, ranges, weights, pairwise):
    """Average every entry by what its differences win.

    Args:
        arrays: Inputs, a tuple; base; and result.
        sizes: Per input the range that the sizes of its differences are brought to.
        ranges: Per input the range of the scores that count.
        weights: fp32, one per input.
        pairwise: None if inputs compete with the sum of all.

    Returns:
        The bits of the largest size written, or more; see ``elementwise``.
    """
    xs, base, out = arrays
    n = np.float32(len(xs))
    found = (NO, NO)
    for i in range(len(out)):
        z, deltas, found = read(xs, base, i, found)
        normals = _normals(deltas, sizes)
        others = _against(deltas, normals, pairwise)
        won = _won(_own(deltas, normals, pairwise), normals, others, n, ranges)
        under = ZERO + total(won)
        under = under if under > _NO_WEIGHT else _NO_WEIGHT
        taken = _taken(deltas, sizes, weights, won) / under
        found = put(out, i, taken + z, found)
    return said(found)


@compiled
def scores(arrays, sizes, mine, pairwise, out):
    """Write one input's scores, fp32.

    Args:
        arrays: Inputs, a tuple; and base.
        sizes: As for ``compete``.
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
        normal = _part(abs(delta), size) * _sign(delta)
        (own,) = _own((delta,), (normal,), pairwise)
        out[i] = _score(own, normal, _against(deltas, normals, pairwise), n)
