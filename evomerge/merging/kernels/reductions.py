"""How inputs become one at an entry, for every kind of ``form.Reduce``, compiled.

The steps, and their order, are those of ``executors.formulas``: the bits are the same.
A flag that is not set comes as None: the compiler leaves out what is not asked for.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import types

from evomerge.merging.constants import CANCELLED, NO_STEP
from evomerge.merging.form import (
    Active,
    Ballot,
    Largest,
    LargestOf,
    Signs,
    Total,
    Towards,
)
from evomerge.merging.kernels.entries import (
    left_weighted,
    thinned,
    total,
    weighted,
)
from evomerge.merging.kernels.numbers import (
    NO,
    ONE,
    SIGN,
    ZERO,
    as_bits,
    as_float,
    inner,
    u32,
    unfolded,
)

_CANCELLED, _NO_STEP = np.float32(CANCELLED), np.float32(NO_STEP)


@unfolded
def reduced(xs, i, z, thin, how):
    """Return what the inputs become at place ``i``; ``z`` is the base's entry."""
    return _RULES[how.instance_class]


def _total(xs, i, z, thin, how):
    values = weighted(thinned(xs, i, z, thin), how.weights)
    return _divided(total(values), how.divisor)


@unfolded
def _divided(value, divisor):
    if isinstance(divisor, types.NoneType):
        return lambda value, divisor: value
    return lambda value, divisor: value / divisor


@inner(forceinline=True)
def _sign(value):
    up = ONE if value > ZERO else ZERO
    return up - (ONE if value < ZERO else ZERO)


@unfolded
def _sum_of_signs(values):
    if len(values) == 0:
        return lambda values: ZERO
    return lambda values: _sum_of_signs(values[:-1]) + _sign(values[-1])


@unfolded
def _counted(values, count):
    if isinstance(count, types.NoneType):
        return lambda values, count: total(values)
    return lambda values, count: _sum_of_signs(values)


@unfolded
def _tally(values, xs, i, z, thin, votes):
    """Return the sum that elects: of weighted values, or of those without weights."""
    if isinstance(votes.types[1], types.NoneType):
        return lambda values, xs, i, z, thin, votes: _counted(values, votes.by_count)
    return lambda values, xs, i, z, thin, votes: _counted(
        thinned(xs, i, z, thin), votes.by_count
    )


@unfolded
def _wins(tally, plus):
    if isinstance(plus, types.NoneType):
        return lambda tally, plus: tally > ZERO
    return lambda tally, plus: tally >= ZERO


@unfolded
def _lasts(under, size, mixed):
    """Return 0.0 where weights of both signs cancel, else 1.0."""
    if isinstance(mixed, types.NoneType):
        return lambda under, size, mixed: ONE
    return lambda under, size, mixed: ONE if abs(under) > size * _CANCELLED else ZERO


@unfolded
def _agreeing(values, weights, flip):
    """Return three sums over those who agree: of sizes, of weights, of their sizes.

    Args:
        values: Weighted, a tuple of fp32.
        weights: One each.
        flip: ``SIGN`` where negative values agree, else 0.
    """
    if len(values) == 0:
        return lambda values, weights, flip: (ZERO, ZERO, ZERO)

    def more(values, weights, flip):
        sizes, under, size = _agreeing(values[:-1], weights[:-1], flip)
        value, weight = _flipped(values[-1], flip), weights[-1]
        # What is no number is not zero or less, and stays.
        agrees = not (value <= ZERO)
        return (
            sizes + value if agrees else sizes,
            under + weight if agrees else under,
            size + abs(weight) if agrees else size,
        )

    return more


@inner(forceinline=True)
def _flipped(value, flip):
    """Return a number, of the other sign where the flip is the sign's bit."""
    return as_float(u32(as_bits(value) ^ flip))


@unfolded
def _divisor(under, mean):
    if isinstance(mean, types.NoneType):
        return lambda under, mean: ONE
    return lambda under, mean: under if under != ZERO else ONE


def _ballot(xs, i, z, thin, how):
    values = left_weighted(xs, i, z, thin, how.weights)
    tally = _tally(values, xs, i, z, thin, how.votes)
    flip = NO if _wins(tally, how.votes.plus) else SIGN
    sizes, under, size = _agreeing(values, how.weights, flip)
    merged = sizes * _lasts(under, size, how.mixed) / _divisor(under, how.mean)
    return _flipped(merged, flip)


def _signs(xs, i, z, thin, how):
    values = left_weighted(xs, i, z, thin, how.weights)
    return _sign(_tally(values, xs, i, z, thin, how.votes))


@unfolded
def _largest_of(values, last):
    """Return the value of the largest size; of equals the first, or the last."""
    if len(values) == 1:
        return lambda values, last: values[0]
    if isinstance(last, types.NoneType):

        def first(values, last):
            best = _largest_of(values[:-1], last)
            return values[-1] if abs(values[-1]) > abs(best) else best

        return first

    def of_equals_last(values, last):
        best = _largest_of(values[:-1], last)
        return values[-1] if abs(values[-1]) >= abs(best) else best

    return of_equals_last


def _largest(xs, i, z, thin, how):
    return _largest_of(weighted(thinned(xs, i, z, thin), how.weights), how.last)


@unfolded
def _most_of_sign(values, sign):
    """Return the size of the largest value that has a sign, zero if none has it."""
    if len(values) == 0:
        return lambda values, sign: ZERO

    def more(values, sign):
        best, mine = _most_of_sign(values[:-1], sign), values[-1] * sign
        return best if best > mine else mine

    return more


def _largest_elected(xs, i, z, thin, how):
    values = weighted(thinned(xs, i, z, thin), how.weights)
    tally = _tally(values, xs, i, z, thin, how.votes)
    sign = ONE if _wins(tally, how.votes.plus) else -ONE
    return _most_of_sign(values, sign) * sign


@unfolded
def n_active(values, epsilon):
    """Return how many values are larger than epsilon, fp32."""
    if len(values) == 0:
        return lambda values, epsilon: ZERO

    def more(values, epsilon):
        mine = ONE if abs(values[-1]) > epsilon else ZERO
        return n_active(values[:-1], epsilon) + mine

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


def _active(xs, i, z, thin, how):
    values = thinned(xs, i, z, thin)
    count = n_active(values, how.epsilon)
    merged = _sum_active(values, how.epsilon, how.factors, count == ONE)
    return merged / (count if count > ONE else ONE)


def _towards(xs, i, z, thin, how):
    delta = thinned(xs, i, z, thin)[0]
    size = abs(delta)
    share = ONE / (size if size > _NO_STEP else _NO_STEP) * how.t
    return delta * (share if share < ONE else ONE)


_RULES = {
    Total: _total,
    Ballot: _ballot,
    Signs: _signs,
    Largest: _largest,
    LargestOf: _largest_elected,
    Active: _active,
    Towards: _towards,
}
