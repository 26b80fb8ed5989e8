"""All inputs' differences at an entry, as a tuple: whole, thinned, or weighted.

Inputs come as tuples, so that the compiler sees how many there are and unfolds what is
done with them. A base is an array or None. What thins them is None, one value for all
inputs, or a tuple with one for each: a step by size (three numbers: the smallest size
that stays, below which size or None, and the factor on what is left or None), or what
``bernoulli.draw`` gave.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.kernels.bernoulli import worth
from evomerge.merging.kernels.numbers import (
    FULL,
    NO,
    ONE,
    ZERO,
    compiled,
    load,
    size_bits,
    unfolded,
)


@unfolded
def deltas_of(xs, i, z):
    """Return each input's difference from ``z`` at entry ``i``."""
    if len(xs) == 0:
        return lambda xs, i, z: ()
    return lambda xs, i, z: (load(xs[0], i) - z, *deltas_of(xs[1:], i, z))


@unfolded
def times(values, factor):
    """Return every value times a factor."""
    if len(values) == 0:
        return lambda values, factor: ()
    return lambda values, factor: (values[0] * factor, *times(values[1:], factor))


@unfolded
def weighted(values, weights):
    """Return every value times its weight."""
    if len(values) == 0:
        return lambda values, weights: ()
    return lambda values, weights: (
        values[0] * weights[0],
        *weighted(values[1:], weights[1:]),
    )


@unfolded
def total(values):
    """Return the sum, first to last."""
    if len(values) == 1:
        return lambda values: values[0]
    return lambda values: total(values[:-1]) + values[-1]


@unfolded
def scaled(value, scale):
    """Return a value times a scale; None for one."""
    if isinstance(scale, types.NoneType):
        return lambda value, scale: value
    return lambda value, scale: value * scale


@unfolded
def on_base(base, z, value, bare):
    """Return a value with the base's entry where there is a base, and it is wanted."""
    if isinstance(base, types.NoneType) or not isinstance(bare, types.NoneType):
        return lambda base, z, value, bare: value
    return lambda base, z, value, bare: value + z


def _is_by_size(step):
    return len(step) == 3 and isinstance(step[0], types.Float)


@unfolded
def left(delta, step, i):
    """Return what one step leaves of a difference at place ``i``."""
    if not isinstance(step[0], types.Float) or len(step) == 1:
        return lambda delta, step, i: delta * worth(step, i)
    if len(step) == 2:

        def outstanding(delta, step, i):
            return delta * (ONE if abs(delta) * step[0] >= step[1] else ZERO)

        return outstanding
    _, top, factor = step.types
    if not isinstance(top, types.NoneType):

        def between(delta, step, i):
            low, high, factor = step
            size = abs(delta)
            # Times zero, so that what is no number stays none; plus zero, because what
            # goes leaves no sign behind.
            inside = ONE if (size >= low) & (size < high) else ZERO
            return (delta * inside + ZERO) * factor

        return between
    if not isinstance(factor, types.NoneType):

        def grown(delta, step, i):
            return (ZERO if abs(delta) < step[0] else delta) * step[2]

        return grown
    return lambda delta, step, i: ZERO if abs(delta) < step[0] else delta


@unfolded
def users(values, merged, share):
    """Return how many values are above a share of what the others add up to."""
    if len(values) == 0:
        return lambda values, merged, share: ZERO

    def more(values, merged, share):
        mine = ONE if abs(values[-1]) > abs(merged - values[-1]) * share else ZERO
        return users(values[:-1], merged, share) + mine

    return more


@unfolded
def thinned(xs, i, z, thin):
    """Return what is left of each input's difference at place ``i``, as a tuple.

    Args:
        xs: Inputs, a tuple of arrays.
        i: A place.
        z: The base's entry, fp32.
        thin: What thins them.
    """
    if isinstance(thin, types.NoneType):
        return lambda xs, i, z, thin: deltas_of(xs, i, z)
    if isinstance(thin, types.BaseNamedTuple):

        def used(xs, i, z, thin):
            deltas = deltas_of(xs, i, z)
            number = users(deltas, total(deltas), thin.share)
            return times(deltas, ONE if number >= thin.least else ZERO)

        return used
    if len(xs) == 0:
        return lambda xs, i, z, thin: ()

    def each(xs, i, z, thin):
        mine = left(load(xs[0], i) - z, thin[0], i)
        return (mine, *thinned(xs[1:], i, z, thin[1:]))

    return each


@unfolded
def _left_weighted(delta, step, i, weight):
    """Return a weight times what a step leaves of a difference."""
    if _is_by_size(step):
        _, top, factor = step.types
        if isinstance(top, types.NoneType) and isinstance(factor, types.NoneType):
            # Nothing is multiplied where nothing is left: one masked step less.
            return lambda delta, step, i, weight: (
                ZERO if abs(delta) < step[0] else delta * weight
            )
    return lambda delta, step, i, weight: left(delta, step, i) * weight


@unfolded
def left_weighted(xs, i, z, thin, weights):
    """Return what is left of each input's difference times its weight, as a tuple.

    As ``thinned`` times the weights, but for the signs of zeros.
    """
    if isinstance(thin, types.NoneType | types.BaseNamedTuple):
        return lambda xs, i, z, thin, weights: weighted(
            thinned(xs, i, z, thin), weights
        )
    if len(xs) == 0:
        return lambda xs, i, z, thin, weights: ()

    def each(xs, i, z, thin, weights):
        mine = _left_weighted(load(xs[0], i) - z, thin[0], i, weights[0])
        return (mine, *left_weighted(xs[1:], i, z, thin[1:], weights[1:]))

    return each


@unfolded
def largest_bits(values):
    """Return the bits of the largest size of values."""
    if len(values) == 0:
        return lambda values: NO

    def more(values):
        before, mine = largest_bits(values[:-1]), size_bits(values[-1])
        return mine if mine > before else before

    return more


@compiled
def said(most, widest):
    """Return the largest bits written; more than any number's if those read have it."""
    return most if widest < FULL else np.uint32(0xFFFFFFFF)
