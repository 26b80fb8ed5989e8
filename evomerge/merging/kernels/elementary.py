"""The steps of ``merging.elementary``, compiled: the bits are the same."""

# mypy: disable-error-code="no-untyped-def,no-untyped-call"

import numpy as np
from numba import njit
from numba.extending import overload

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
from evomerge.merging.kernels.numbers import INLINED, ONE, as_bits, as_float, u32

_LOG2_E, _MOST = np.float32(LOG2_E), np.float32(MOST)
_HIGH, _LOW = np.float32(LN2_HIGH), np.float32(LN2_LOW)
_SHIFT = np.uint32(EXPONENT_BITS)


def _numbers(parts):
    return tuple(np.float32(part) for part in parts)


_SERIES = _numbers(SERIES)
_WIDE_ABOVE, _WIDE_BELOW = map(_numbers, WIDE)
_ABOVE, _BELOW = map(_numbers, NARROW)


def _polynomial(parts, x):
    raise NotImplementedError("only in compiled code")


@overload(_polynomial, jit_options=INLINED)
def _polynomial_of(parts, x):
    if len(parts) == 1:
        return lambda parts, x: parts[0]
    return lambda parts, x: _polynomial(parts[1:], x) * x + parts[0]


@njit(forceinline=True)
def clamped(x, low, high):
    """Return a number, or the end that it lies beyond."""
    x = low if x < low else x
    return high if x > high else x


@njit(forceinline=True)
def exp(x):
    """Return the exponential of an fp32 number from -87 to 88."""
    doublings = np.float32(np.rint(x * _LOG2_E))
    rest = (x - doublings * _HIGH) - doublings * _LOW
    grown = u32(np.uint32(np.int32(doublings)) << _SHIFT)
    return as_float(u32(as_bits(_polynomial(_SERIES, rest)) + grown))


@njit(forceinline=True)
def tanh(x):
    """Return the hyperbolic tangent of an fp32 number."""
    x = clamped(x, -_MOST, _MOST)
    square = x * x
    slope = x * _polynomial(_WIDE_ABOVE, square) / _polynomial(_WIDE_BELOW, square)
    return clamped(slope, -ONE, ONE)


@njit(forceinline=True)
def tanh_of_part(x):
    """Return the hyperbolic tangent of an fp32 number from -1 to 1."""
    square = x * x
    return x * _polynomial(_ABOVE, square) / _polynomial(_BELOW, square)
