"""The competition of ``elementwise.pcb`` in one pass, compiled: the bits are the same.

Ranges come as low end, high end and one over their width, fp32. Inputs come as tuples,
which the overloads below unfold.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import njit, types
from numba.extending import overload

from evomerge.merging.kernels.elementary import clamped, exp, tanh, tanh_of_part
from evomerge.merging.kernels.elementwise import put, said, wider
from evomerge.merging.kernels.entries import deltas_of, total
from evomerge.merging.kernels.numbers import INLINED, NO, ONE, ZERO, compiled, load

_NO_WEIGHT = np.float32(1e-12)


@njit(forceinline=True)
def _part(value, ends):
    low, high, factor = ends
    return (clamped(value, low, high) - low) * factor


@njit(forceinline=True)
def _sign(value):
    up = ONE if value > ZERO else ZERO
    return up - (ONE if value < ZERO else ZERO)


def _normals(deltas, sizes):
    raise NotImplementedError("only in compiled code")


@overload(_normals, jit_options=INLINED)
def _normals_of(deltas, sizes):
    """Return differences by size from 0 to 1, with their signs."""
    if len(deltas) == 0:
        return lambda deltas, sizes: ()
    return lambda deltas, sizes: (
        _part(abs(deltas[0]), sizes[0]) * _sign(deltas[0]),
        *_normals(deltas[1:], sizes[1:]),
    )


def _agreement(mine, others):
    raise NotImplementedError("only in compiled code")


@overload(_agreement, jit_options=INLINED)
def _agreement_with(mine, others):
    """Return how well others agree with one: each on its own, or their sum."""
    if not isinstance(others, types.BaseTuple):
        return lambda mine, others: tanh(others * mine)
    if len(others) == 0:
        return lambda mine, others: ZERO

    def more(mine, others):
        before = _agreement(mine, others[:-1])
        return before + tanh_of_part(others[-1] * mine)

    return more


def _against(deltas, normals, pairwise):
    raise NotImplementedError("only in compiled code")


@overload(_against, jit_options=INLINED)
def _against_whom(deltas, normals, pairwise):
    """Return whom inputs compete with: each with each, or (None) with the sum."""
    if isinstance(pairwise, types.NoneType):
        return lambda deltas, normals, pairwise: ZERO + total(deltas)
    return lambda deltas, normals, pairwise: normals


@njit(forceinline=True)
def _score(own, normal, others, n):
    within = abs(normal)
    return exp(within * within * n) * _agreement(own, others)


def _won(own, normals, others, n, ranges):
    raise NotImplementedError("only in compiled code")


@overload(_won, jit_options=INLINED)
def _won_by(own, normals, others, n, ranges):
    """Return what every input won."""
    if len(own) == 0:
        return lambda own, normals, others, n, ranges: ()
    return lambda own, normals, others, n, ranges: (
        _part(_score(own[0], normals[0], others, n), ranges[0]),
        *_won(own[1:], normals[1:], others, n, ranges[1:]),
    )


def _taken(deltas, sizes, weights, won):
    raise NotImplementedError("only in compiled code")


@overload(_taken, jit_options=INLINED)
def _taken_of(deltas, sizes, weights, won):
    """Return the sum of clipped and weighted differences times what they won."""
    if len(deltas) == 0:
        return lambda deltas, sizes, weights, won: ZERO

    def more(deltas, sizes, weights, won):
        before = _taken(deltas[:-1], sizes[:-1], weights[:-1], won[:-1])
        low, high, _ = sizes[-1]
        size = clamped(abs(deltas[-1]), low, high) * _sign(deltas[-1])
        return before + size * weights[-1] * won[-1]

    return more


def _own(deltas, normals, pairwise):
    raise NotImplementedError("only in compiled code")


@overload(_own, jit_options=INLINED)
def _own_of(deltas, normals, pairwise):
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
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        found = wider(deltas, found)
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
