"""Merged differences where enough inputs use them (TALL masks), one pass, compiled.

The steps, and their order, are those of ``operators.tall``: the bits are the same.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import njit
from numba.extending import overload

from evomerge.merging.kernels.elections import elected
from evomerge.merging.kernels.elementwise import put, said, wider
from evomerge.merging.kernels.entries import deltas_of, total
from evomerge.merging.kernels.numbers import NO, ONE, ZERO, compiled, load


def _users(values, merged, share):
    raise NotImplementedError("only in compiled code")


@overload(_users)
def _users_of(values, merged, share):
    """Return how many values are above a share of what the others add up to."""
    if len(values) == 0:
        return lambda values, merged, share: ZERO

    def more(values, merged, share):
        mine = ONE if abs(values[-1]) > abs(merged - values[-1]) * share else ZERO
        return _users(values[:-1], merged, share) + mine

    return more


@njit(forceinline=True)
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
        z = load(base, i)
        deltas = deltas_of(xs, i, z)
        value = _used(deltas, total(deltas), use) + z
        found = put(out, i, value, wider(deltas, found))
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
        z = load(base, i)
        ballot = (None, None, True, None, None)
        merged = elected(xs, i, z, weights, (steps, drawn), ballot)
        deltas = deltas_of(xs, i, z)
        value = _used(deltas, merged, use) + z
        found = put(out, i, value, wider(deltas, found))
    return said(found)
