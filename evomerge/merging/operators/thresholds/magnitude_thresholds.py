"""Where the sizes of one input's differences cut, for every part that may be kept.

The sizes do not depend on the candidate. The cuts of all densities on the catalogue's
grid are found together, once for an input and a base, and kept; another candidate looks
its own up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evomerge.core.operators.derived import MAGNITUDES, ONE_MAGNITUDE
from evomerge.merging.form import Cut
from evomerge.merging.operators.loops.arrays import arrays_of, can_read, in_parts
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import (
    Score,
    cuts,
    span,
)
from evomerge.merging.operators.thresholds.sampled_thresholds import few_cuts

GRID = 100
"""Densities are kept in steps of one part of this."""
_SMALL = 1 << 17
"""Up to this many entries sorting them is faster than counting them."""
_GROUP = 64
"""High halves whose low halves are counted at a time: 32 MiB of counts."""

_FEW = 4
"""Up to this many cuts are looked for near where a sample says they are."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Cuts:
    """Where to cut to keep so many entries, for many numbers.

    Attributes:
        counts: int64, ascending: how many entries stay.
        thresholds: fp32: the smallest size that stays.
        lasts: int64: flat index of the last entry of that size that stays.
    """

    counts: torch.Tensor
    thresholds: torch.Tensor
    lasts: torch.Tensor

    def find(self, keep: int) -> Cut | None:
        """Return the cut that keeps so many entries, if it is here."""
        at = int(torch.searchsorted(self.counts, keep))
        if at == len(self.counts) or int(self.counts[at]) != keep:
            return None
        return Cut(float(self.thresholds[at]), int(self.lasts[at]))


WorkOut = Callable[[Deltas, int, Sequence[int]], Cuts]
"""Makes the table of an input's cuts: (deltas, input, how many entries stay)."""


class _NotKept(Exception):  # noqa: N818 - no error, a way out
    """A table would have to be worked out."""


def _nowhere(deltas: Deltas, index: int, keeps: Sequence[int]) -> Cuts:
    raise _NotKept


def each_size_cuts(deltas: Deltas, keeps: Sequence[Sequence[int]]) -> list[list[Cut]]:
    """Find the cuts of every input, several inputs at a time.

    Args:
        deltas: The inputs.
        keeps: How many entries of each input.
    """
    found: list[list[Cut]] = [[] for _ in keeps]
    unknown = [index for index, wanted in enumerate(keeps) if wanted]
    if deltas.is_known:
        # Threads that only look things up would hold each other up.
        for index in list(unknown):
            with suppress(_NotKept):
                found[index] = size_cuts(deltas, index, keeps[index], _nowhere)
                unknown.remove(index)

    def find(low: int, high: int) -> int:
        for index in unknown[low:high]:
            found[index] = size_cuts(deltas, index, keeps[index])
        return 0

    if deltas.n <= _SMALL or len(unknown) < 2:
        find(0, len(unknown))
    else:
        in_parts(find, len(unknown), multiple_of=1, least=1)
    return found


def size_cuts(
    deltas: Deltas, index: int, keeps: Sequence[int], work_out: WorkOut | None = None
) -> list[Cut]:
    """Find the cuts that keep exactly so many entries of an input, the largest.

    Args:
        deltas: The inputs.
        index: Which one.
        keeps: How many entries.
        work_out: Makes a table that is not kept; from the entries if not given.
    """
    if not deltas.is_known:
        return _all_cuts(deltas, index, keeps)
    make = work_out or _table
    table = deltas.recall(
        MAGNITUDES, (index,), lambda: make(deltas, index, _usual(deltas.n))
    )
    found = [table.find(keep) if 0 < keep < deltas.n else None for keep in keeps]
    return [
        _one(deltas, index, keep, make) if cut is None else cut
        for cut, keep in zip(found, keeps, strict=True)
    ]


def magnitude(deltas: Deltas, index: int) -> Score:
    """Score the entries of one input by the size of its difference."""
    space = deltas.scratch(span(deltas))

    def score(block: slice) -> torch.Tensor:
        return deltas.read(index, block, deltas.base(block), space).abs_()

    return score


def _one(deltas: Deltas, index: int, keep: int, make: WorkOut) -> Cut:
    if not 0 < keep < deltas.n:
        return _all_cuts(deltas, index, (keep,))[0]
    kind = ONE_MAGNITUDE.at(keep)
    table = deltas.recall(kind, (index,), lambda: make(deltas, index, (keep,)))
    found = table.find(keep)
    assert found is not None
    return found


def _usual(n: int) -> tuple[int, ...]:
    """Return how many entries the densities of the grid keep, however they round."""
    whole = {math.floor(part * n / GRID) for part in range(1, GRID)}
    return tuple(sorted(k for k in whole | {k - 1 for k in whole} if 0 < k < n))


def _all_cuts(deltas: Deltas, index: int, keeps: Sequence[int]) -> list[Cut]:
    inside = sorted({keep for keep in keeps if 0 < keep < deltas.n})
    table = _table(deltas, index, inside) if inside else None
    out = []
    for keep in keeps:
        cut = table.find(keep) if table is not None else None
        if cut is None:  # nothing is kept, or everything
            cut = Cut(math.inf, -1) if keep <= 0 else Cut(0.0, deltas.n)
        out.append(cut)
    return out


def _table(deltas: Deltas, index: int, keeps: Sequence[int]) -> Cuts:
    if not keeps:
        empty = torch.empty(0, dtype=torch.int64)
        return Cuts(empty, empty.to(torch.float32), empty)
    counts = torch.tensor(keeps, dtype=torch.int64)
    if deltas.n <= _SMALL:
        sizes = magnitude(deltas, index)(slice(0, deltas.n))
        order = torch.argsort(sizes, descending=True, stable=True)
        lasts = order[counts - 1]
        return Cuts(counts, sizes[lasts].cpu(), lasts.cpu())
    if can_read(deltas):
        few = few_cuts(deltas, index, keeps) if len(keeps) <= _FEW else None
        keys, lasts = few or _count(deltas, index, np.array(keeps, dtype=np.int64))
        return Cuts(counts, torch.from_numpy(keys).view(torch.float32), lasts)
    found = cuts(deltas, magnitude(deltas, index), keeps)
    thresholds = torch.tensor([cut.threshold for cut in found])
    return Cuts(counts, thresholds, torch.tensor([cut.last for cut in found]))


def _count(deltas: Deltas, index: int, keeps: Array) -> tuple[Array, torch.Tensor]:
    """Find the bits of each threshold and the flat index of its last tie."""
    from evomerge.merging.kernels.order_statistics import HIGH_BINS, count_high

    x, base = arrays_of(deltas, index)
    highs = np.zeros(HIGH_BINS, dtype=np.int64)
    count_high(x, base, highs)
    # How many entries are as large as a bin or larger, from the largest bin down.
    reached = np.cumsum(highs[::-1])
    steps = np.searchsorted(reached, keeps)
    bins = HIGH_BINS - 1 - steps
    above = reached[steps] - highs[bins]
    keys = np.zeros(len(keeps), dtype=np.int32)
    lasts = np.zeros(len(keeps), dtype=np.int64)
    wanted = np.unique(bins)
    for first in range(0, len(wanted), _GROUP):
        group = wanted[first : first + _GROUP]
        mine = np.flatnonzero(np.isin(bins, group))
        found = _in_bins(deltas, index, group, bins[mine], keeps[mine] - above[mine])
        keys[mine], lasts[mine] = found
    return keys, torch.from_numpy(lasts)


def _in_bins(
    deltas: Deltas, index: int, group: Array, bins: Array, rests: Array
) -> tuple[Array, Array]:
    """Find cuts within a few high halves: how many of the bin's largest stay."""
    from evomerge.merging.kernels.order_statistics import (
        HIGH_BINS,
        LOW_BINS,
        count_low,
        find_ties,
    )

    x, base = arrays_of(deltas, index)
    rows = np.full(HIGH_BINS, -1, dtype=np.int32)
    rows[group] = np.arange(len(group), dtype=np.int32)
    lows = np.zeros((len(group), LOW_BINS), dtype=np.int64)
    count_low(x, base, rows, lows)
    keys = np.zeros(len(bins), dtype=np.int64)
    numbers = np.zeros(len(bins), dtype=np.int64)
    ties = np.zeros(len(bins), dtype=np.int64)
    for i, (high, rest) in enumerate(zip(bins, rests, strict=True)):
        counts = lows[rows[high]]
        reached = np.cumsum(counts[::-1])
        step = int(np.searchsorted(reached, rest))
        low = LOW_BINS - 1 - step
        keys[i] = (int(high) << 16) | low
        ties[i] = counts[low]
        numbers[i] = rest - (reached[step] - counts[low])
    if bool((numbers == ties).all()):  # all equals stay: no need to look for a last
        return keys.astype(np.int32), np.full(len(bins), deltas.n, dtype=np.int64)
    order = np.lexsort((numbers, keys))
    different, firsts = np.unique(keys[order], return_index=True)
    marks = np.full((len(group), LOW_BINS), -1, dtype=np.int32)
    marks[rows[different >> 16], different & (LOW_BINS - 1)] = np.arange(len(different))
    places = np.zeros(len(bins), dtype=np.int64)
    edges = np.append(firsts, len(bins)).astype(np.int64)
    find_ties(x, base, (rows, marks), (edges, numbers[order]), places)
    lasts = np.empty_like(places)
    lasts[order] = places
    return keys.astype(np.int32), lasts
