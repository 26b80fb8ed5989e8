"""Exponentials and hyperbolic tangents by fp32 steps that every device rounds alike.

Libraries take ways of their own, which differ in the last bits; sums, products and
quotients do not. ``kernels.competition`` takes the same steps as what is here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

LOG2_E = 1.0 / math.log(2.0)
LN2_HIGH = 0.693359375
"""The logarithm of two in few bits: times a small whole number it is exact."""
LN2_LOW = math.log(2.0) - LN2_HIGH
SERIES = tuple(1.0 / math.factorial(k) for k in range(8))
"""Of the exponential around zero; at half a doubling what is left out is 5e-9."""
EXPONENT_BITS = 23
"""Bits of an fp32 number below its exponent."""
MOST = 9.0
"""From here on the tangent is one in fp32."""


Parts = tuple[tuple[float, ...], tuple[float, ...]]
"""Two polynomials of a square, lowest power first: ``x`` times their quotient."""


def _lambert(levels: int) -> Parts:
    """Return ``a`` and ``b`` of ``tanh(x) = x a(x^2) / b(x^2)``, lowest power first.

    They are Lambert's continued fraction ``x / (1 + x^2 / (3 + x^2 / (5 + ...)))``, so
    many levels of it.
    """
    above, below = [1], [2 * levels - 1]
    for odd in range(2 * levels - 3, 0, -2):
        longer = [odd * part for part in below]
        longer += [0] * (len(above) + 1 - len(longer))
        for power, part in enumerate(above):
            longer[power + 1] += part
        above, below = below, longer
    first = below[0]
    return tuple(part / first for part in above), tuple(part / first for part in below)


WIDE = _lambert(12)
"""Up to ``MOST`` what further levels would add is below 1e-6 of the tangent."""
NARROW = _lambert(6)
"""Up to one likewise."""


def exp_(x: torch.Tensor) -> torch.Tensor:
    """Replace fp32 numbers from -87 to 88 by their exponentials, 2e-7 off at most."""
    doublings = torch.round(x * LOG2_E)
    x.sub_(doublings * LN2_HIGH).sub_(doublings * LN2_LOW)
    rest = _polynomial(SERIES, x)
    bits = rest.view(torch.int32) + (doublings.to(torch.int32) << EXPONENT_BITS)
    return x.copy_(bits.view(torch.float32))


def tanh_(x: torch.Tensor) -> torch.Tensor:
    """Replace fp32 numbers by their hyperbolic tangents, 1e-6 off at most."""
    return _quotient(x.clamp_(-MOST, MOST), WIDE).clamp_(-1.0, 1.0)


def tanh_of_part_(x: torch.Tensor) -> torch.Tensor:
    """Replace fp32 numbers from -1 to 1 by their tangents, in fewer steps."""
    return _quotient(x, NARROW)


def _quotient(x: torch.Tensor, parts: Parts) -> torch.Tensor:
    above, below = parts
    square = x.square()
    return x.mul_(_polynomial(above, square)).div_(_polynomial(below, square))


def _polynomial(parts: Sequence[float], x: torch.Tensor) -> torch.Tensor:
    out = torch.full_like(x, parts[-1])
    for part in reversed(parts[:-1]):
        out.mul_(x).add_(part)
    return out
