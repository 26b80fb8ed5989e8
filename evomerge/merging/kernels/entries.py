"""All inputs' differences at an entry, as a tuple: whole, thinned, or weighted.

Entries are thinned by size or at random. The functions are unfolded where they are
called, for as many inputs as there are.
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
    store,
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
def on_base(base, z, value):
    """Return a value with the base's entry where there is a base."""
    if isinstance(base, types.NoneType):
        return lambda base, z, value: value
    return lambda base, z, value: value + z


@unfolded
def windows(arrays, start, stop):
    """Return a part of every array, also of those in tuples; nothing of nothing."""
    if isinstance(arrays, types.NoneType):
        return lambda arrays, start, stop: None
    if isinstance(arrays, types.Array):
        return lambda arrays, start, stop: arrays[start:stop]
    if len(arrays) == 0:
        return lambda arrays, start, stop: ()

    def more(arrays, start, stop):
        first = windows(arrays[0], start, stop)
        return (first, *windows(arrays[1:], start, stop))

    return more


@unfolded
def _left(delta, step):
    """Return what a step leaves of a difference; without a top or a factor for None."""
    _, top, factor = step.types
    if not isinstance(top, types.NoneType):

        def between(delta, step):
            low, high, factor = step
            size = abs(delta)
            # Times zero, so that what is no number stays none; plus zero, because what
            # goes leaves no sign behind.
            inside = ONE if (size >= low) & (size < high) else ZERO
            return (delta * inside + ZERO) * factor

        return between
    if not isinstance(factor, types.NoneType):

        def grown(delta, step):
            return (ZERO if abs(delta) < step[0] else delta) * step[2]

        return grown
    return lambda delta, step: ZERO if abs(delta) < step[0] else delta


@unfolded
def thinned(xs, i, z, steps, drawn):
    """Return what is left of each input's difference, as a tuple.

    Args:
        xs: Inputs, a tuple of arrays.
        i: A place.
        z: The base's entry, fp32.
        steps: Per input the smallest size that stays, below which size (None for any,
            for all inputs), and the factor on what is left (None for one); fp32.
        drawn: Instead of steps, what ``bernoulli.draw`` gave; else empty.
    """
    if len(xs) == 0:
        return lambda xs, i, z, steps, drawn: ()

    def cut(xs, i, z, steps, drawn):
        left = _left(load(xs[0], i) - z, steps[0])
        return (left, *thinned(xs[1:], i, z, steps[1:], drawn))

    def tossed(xs, i, z, steps, drawn):
        left = (load(xs[0], i) - z) * worth(drawn[0], i)
        return (left, *thinned(xs[1:], i, z, steps, drawn[1:]))

    return tossed if len(drawn) else cut


@unfolded
def _left_weighted(delta, step, weight):
    """Return a weight times what a step leaves of a difference."""
    _, top, factor = step.types
    if isinstance(top, types.NoneType) and isinstance(factor, types.NoneType):
        # Nothing is multiplied where nothing is left: one masked step less.
        return lambda delta, step, weight: (
            ZERO if abs(delta) < step[0] else delta * weight
        )
    return lambda delta, step, weight: _left(delta, step) * weight


@unfolded
def left_weighted(xs, i, z, steps, drawn, weights):
    """Return what is left of each input's difference times its weight, as a tuple.

    As ``thinned`` times the weights, but for the signs of zeros.

    Args:
        xs: As for ``thinned``.
        i: As for ``thinned``.
        z: As for ``thinned``.
        steps: As for ``thinned``.
        drawn: As for ``thinned``.
        weights: fp32, one per input.
    """
    if len(xs) == 0:
        return lambda xs, i, z, steps, drawn, weights: ()

    def cut(xs, i, z, steps, drawn, weights):
        mine = _left_weighted(load(xs[0], i) - z, steps[0], weights[0])
        return (mine, *left_weighted(xs[1:], i, z, steps[1:], drawn, weights[1:]))

    def tossed(xs, i, z, steps, drawn, weights):
        mine = (load(xs[0], i) - z) * worth(drawn[0], i) * weights[0]
        return (mine, *left_weighted(xs[1:], i, z, steps, drawn[1:], weights[1:]))

    return tossed if len(drawn) else cut


@unfolded
def _largest_bits(values):
    if len(values) == 0:
        return lambda values: NO

    def more(values):
        before, mine = _largest_bits(values[:-1]), size_bits(values[-1])
        return mine if mine > before else before

    return more


@compiled
def read(xs, base, i, found):
    """Return the base's entry, the differences, and the largest bits so far.

    Those are of sizes written and of sizes read, which are looked at now.
    """
    z = load(base, i)
    deltas = deltas_of(xs, i, z)
    most, widest = found
    size = _largest_bits(deltas)
    return z, deltas, (most, (size if size > widest else widest))


@compiled
def put(out, i, value, found):
    """Write a value; return the largest bits, as ``read`` does."""
    store(out, i, value)
    size = size_bits(value)
    most, widest = found
    return (size if size > most else most), widest


@compiled
def said(found):
    """Return the largest bits written; more than any number's if those read have it."""
    most, widest = found
    return most if widest < FULL else np.uint32(0xFFFFFFFF)
