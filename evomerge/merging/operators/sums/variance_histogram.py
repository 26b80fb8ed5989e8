"""Variances counted by the parts of their bits, and squares summed between cuts."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge.merging.operators.loops.arrays import Arrays, Part
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.energy import CELLS

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
            ``kernels.varied.gather`` reads.
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
