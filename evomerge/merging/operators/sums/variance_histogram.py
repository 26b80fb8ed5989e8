"""Variances counted by the parts of their bits, and squares summed between cuts.

Sums of squares are not rounded, so they are the same however and wherever they are
added: a square is a whole number times a power of two, those of near powers are added
as whole numbers, and only the last sum is rounded, to fp64.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merging.constants import CELLS
from evomerge.merging.operators.loops.arrays import Arrays, Part, as_array, is_plain
from evomerge.merging.operators.loops.blocks import Deltas

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


Array = npt.NDArray[Any]
Tables = tuple[Array, Array, Array]


class Counting:
    """Counts of variances by the parts of their bits."""

    def __init__(self, deltas: Deltas) -> None:
        self._n = deltas.n
        self._arrays = Arrays.of(deltas)

    def highs(self) -> tuple[Array, int]:
        """Count high halves; return also how many entries have no variance."""
        from evomerge.merging.kernels.variance_histogram import HIGH_BINS, count_high

        zeros = []

        def count(part: Part, counts: Array) -> None:
            zeros.append(int(count_high(*part[:2], counts)))

        counts = self._sum(count, (HIGH_BINS,))
        return counts, sum(zeros)

    def find(self, highs: Array, keeps: Array) -> tuple[Array, Array, Tables]:
        """Find the bits of the variance that each number of entries cuts at.

        Args:
            highs: Counts of high halves.
            keeps: Ascending.

        Returns:
            The bits; how many entries of just this variance stay; and the tables that
            ``kernels.variance_histogram.gather`` reads.
        """
        from evomerge.merging.kernels.variance_histogram import (
            BINS,
            count_low,
            count_middle,
        )

        high = _Level(highs[None], np.zeros(len(keeps), dtype=np.int64), keeps)
        heads = high.table()[0]

        def count_next(part: Part, counts: Array) -> None:
            count_middle(*part[:2], heads, counts)

        counts = self._sum(count_next, (high.n_rows, BINS))
        middle = _Level(counts, high.rows, high.rests)
        middles = middle.table()

        def count_last(part: Part, counts: Array) -> None:
            count_low(*part[:2], (heads, middles), counts)

        counts = self._sum(count_last, (middle.n_rows, BINS))
        low = _Level(counts, middle.rows, middle.rests)
        keys = (((high.bins << 8) | middle.bins) << 8) | low.bins
        return keys, low.rests, (heads, middles, low.table())

    def gather(
        self, keys: Array, rests: Array, tables: Tables
    ) -> tuple[Array, Array, Array]:
        """Return each cut's last entry; and the sums and the ends between cuts."""
        from evomerge.merging.kernels.variance_histogram import gather

        _, firsts = np.unique(-keys, return_index=True)
        edges = np.append(firsts, len(keys)).astype(np.int64)
        places = np.full(len(keys), self._n, dtype=np.int64)
        sums = np.zeros(
            (len(keys) + 1, len(self._arrays.inputs), CELLS + 1), dtype=np.int64
        )
        ends = np.array([[1 << 31, -1]]).repeat(len(keys) + 1, axis=0)
        found = (places, sums, ends)
        inputs, base = self._arrays.inputs, self._arrays.base
        gather(inputs, base, tables, (edges, rests), found)
        return found

    def _sum(
        self, count: Callable[[Part, Array], None], shape: tuple[int, ...]
    ) -> Array:
        """Count in parts, on several threads."""
        total = np.zeros(shape, dtype=np.int64)
        lock = threading.Lock()

        def work(part: Part, low: int) -> None:
            mine = np.zeros(shape, dtype=np.int64)
            count(part, mine)
            with lock:
                np.add(total, mine, out=total)

        self._arrays.each(work)
        return total


class _Level:
    """Where cuts fall among the values of one part of the bits.

    Args:
        counts: int64, shape ``(rows, values)``: entries of each value.
        rows: The row of each cut, ascending; cuts are in descending order of their
            bits, and so are rows.
        rests: How many of the row's largest entries each cut keeps.
    """

    def __init__(self, counts: Array, rows: Array, rests: Array) -> None:
        self._shape = counts.shape
        n_values = counts.shape[1]
        downwards = counts[:, ::-1].ravel()
        reached = np.concatenate([[0], np.cumsum(downwards)])
        rests = rests + reached[rows * n_values]
        self._places = np.searchsorted(reached, rests) - 1
        self.bins = n_values - 1 - self._places % n_values
        """The value in which each cut falls."""
        self.rests = rests - reached[self._places]
        """How many of that value's largest entries each cut keeps."""
        different, inverse = np.unique(self._places, return_inverse=True)
        self.rows = inverse.astype(np.int64)
        """The row of each cut in the next table."""
        self.n_rows = len(different)

    def table(self) -> Array:
        """Return the row in the next table of values with cuts, else the interval."""
        n_places = self._shape[0] * self._shape[1]
        out = -1 - np.searchsorted(self._places, np.arange(n_places))
        out[self._places] = self.rows
        return np.ascontiguousarray(out.reshape(self._shape)[:, ::-1], dtype=np.int32)
