"""All inputs' differences at an entry, as a tuple, in compiled code.

Overloads see how many there are and unfold what is done with them.
"""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

from numba import types
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


def weighted(values, weights):
    """Return every value times its weight."""
    raise NotImplementedError("only in compiled code")


@overload(weighted)
def _weighted(values, weights):
    if len(values) == 0:
        return lambda values, weights: ()
    return lambda values, weights: (
        values[0] * weights[0],
        *weighted(values[1:], weights[1:]),
    )


def total(values):
    """Return the sum, first to last."""
    raise NotImplementedError("only in compiled code")


@overload(total)
def _total(values):
    if len(values) == 1:
        return lambda values: values[0]
    return lambda values: total(values[:-1]) + values[-1]


def on_base(base, z, value):
    """Return a value with the base's entry where there is a base."""
    raise NotImplementedError("only in compiled code")


@overload(on_base)
def _on_base(base, z, value):
    if isinstance(base, types.NoneType):
        return lambda base, z, value: value
    return lambda base, z, value: value + z


def windows(arrays, start, stop):
    """Return a part of every array, also of those in tuples; nothing of nothing."""
    raise NotImplementedError("only in compiled code")


@overload(windows)
def _windows_of(arrays, start, stop):
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
