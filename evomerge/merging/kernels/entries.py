"""All inputs' differences at an entry, as a tuple, in compiled code.

Overloads see how many there are and unfold what is done with them.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba.extending import overload

from evomerge.merging.kernels.numbers import load


def deltas_of(xs, i, z):
    """Return each input's difference from ``z`` at entry ``i``."""
    raise NotImplementedError("only in compiled code")


@overload(deltas_of)
def _deltas_of(xs, i, z):
    if len(xs) == 0:
        return lambda xs, i, z: ()
    return lambda xs, i, z: (load(xs[0], i) - z, *deltas_of(xs[1:], i, z))


def times(values, factor):
    """Return every value times a factor."""
    raise NotImplementedError("only in compiled code")


@overload(times)
def _times(values, factor):
    if len(values) == 0:
        return lambda values, factor: ()
    return lambda values, factor: (values[0] * factor, *times(values[1:], factor))


def total(values):
    """Return the sum, first to last."""
    raise NotImplementedError("only in compiled code")


@overload(total)
def _total(values):
    if len(values) == 1:
        return lambda values: values[0]
    return lambda values: total(values[:-1]) + values[-1]
