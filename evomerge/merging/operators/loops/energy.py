"""Sums of squares without rounding: the same however and wherever they are added.

A square is a whole number times a power of two. Those of near powers are added as whole
numbers, and only the last sum is rounded, to fp64.
"""

from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merging.operators.loops.arrays import as_array, is_plain

CELLS = 64
"""One for every four exponents of fp32; one more counts what is infinite."""
_LEAST = -150
"""Power of two that a whole number in the first cell stands for."""
_HALF = 32
_FEW = 1 << 12
"""Below this compiled code saves nothing worth compiling it for."""

Sums = npt.NDArray[np.int64]


def squares(values: torch.Tensor) -> torch.Tensor:
    """Return the cells of the sum of squares, each square rounded to fp32.

    Args:
        values: fp32, flat, at most ``2**26`` of them.

    Returns:
        int64, shape ``(CELLS + 1,)``, on the same device. Cells of several blocks can
        be added.
    """
    if is_plain(values) and len(values) >= _FEW:
        return _squares_compiled(values)
    bits = values.square().view(torch.int32)
    exponents = bits >> 23
    parts = bits & 0x7FFFFF
    parts |= (exponents > 0).to(torch.int32) << 23
    cells = exponents.clamp(min=1)
    # In fp64 sums of so few whole numbers are exact, too.
    scaled = (parts.to(torch.int64) << (cells & 3)).to(torch.float64)
    infinite = exponents == 255
    scaled.masked_fill_(infinite, 1.0)
    cells = (cells >> 2).masked_fill_(infinite, CELLS)
    return torch.bincount(cells, weights=scaled, minlength=CELLS + 1).to(torch.int64)


def _squares_compiled(values: torch.Tensor) -> torch.Tensor:
    from evomerge.merging.kernels.variance_histogram import add_squares

    sums = np.zeros((1, CELLS + 1), np.int64)
    add_squares(as_array(values), sums)
    return torch.from_numpy(sums[0])


def rounded(sums: Sums) -> npt.NDArray[np.float64]:
    """Return what cells add up to.

    Args:
        sums: Shape ``(..., CELLS + 1)``.

    Returns:
        Shape ``(...)``.
    """
    powers = 4 * np.arange(CELLS) + _LEAST
    finite = sums[..., :CELLS]
    high = np.ldexp((finite >> _HALF).astype(np.float64), powers + _HALF)
    low = np.ldexp((finite & ((1 << _HALF) - 1)).astype(np.float64), powers)
    terms = np.concatenate([high, low], axis=-1).reshape(-1, 2 * CELLS)
    out = np.array([math.fsum(row[row != 0.0]) for row in terms])
    return np.where(sums[..., CELLS] > 0, math.inf, out.reshape(finite.shape[:-1]))
