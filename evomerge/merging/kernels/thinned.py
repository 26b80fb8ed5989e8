"""What is left of a difference after entries went, by size or at random, compiled."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import types
from numba.extending import overload

from evomerge.merging.kernels.bernoulli import worth
from evomerge.merging.kernels.numbers import ONE, ZERO, load


def _left(delta, step):
    raise NotImplementedError("only in compiled code")


@overload(_left)
def _left_of(delta, step):
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
    raise NotImplementedError("only in compiled code")


@overload(thinned)
def _thinned_of(xs, i, z, steps, drawn):
    if len(xs) == 0:
        return lambda xs, i, z, steps, drawn: ()

    def cut(xs, i, z, steps, drawn):
        left = _left(load(xs[0], i) - z, steps[0])
        return (left, *thinned(xs[1:], i, z, steps[1:], drawn))

    def tossed(xs, i, z, steps, drawn):
        left = (load(xs[0], i) - z) * worth(drawn[0], i)
        return (left, *thinned(xs[1:], i, z, steps, drawn[1:]))

    return tossed if len(drawn) else cut


def _left_weighted(delta, step, weight):
    raise NotImplementedError("only in compiled code")


@overload(_left_weighted)
def _left_weighted_by(delta, step, weight):
    """Return a weight times what a step leaves of a difference."""
    _, top, factor = step.types
    if isinstance(top, types.NoneType) and isinstance(factor, types.NoneType):
        # Nothing is multiplied where nothing is left: one masked step less.
        return lambda delta, step, weight: (
            ZERO if abs(delta) < step[0] else delta * weight
        )
    return lambda delta, step, weight: _left(delta, step) * weight


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
    raise NotImplementedError("only in compiled code")


@overload(left_weighted)
def _left_weighted_of(xs, i, z, steps, drawn, weights):
    if len(xs) == 0:
        return lambda xs, i, z, steps, drawn, weights: ()

    def cut(xs, i, z, steps, drawn, weights):
        mine = _left_weighted(load(xs[0], i) - z, steps[0], weights[0])
        return (mine, *left_weighted(xs[1:], i, z, steps[1:], drawn, weights[1:]))

    def tossed(xs, i, z, steps, drawn, weights):
        mine = (load(xs[0], i) - z) * worth(drawn[0], i) * weights[0]
        return (mine, *left_weighted(xs[1:], i, z, steps, drawn[1:], weights[1:]))

    return tossed if len(drawn) else cut
