"""Where an entry stands in the order of some score, in a tensor or in its row.

In a tensor nothing is sorted: numbers order like their bits, so a histogram of the high
halves, then one of the low halves within the bin that holds the place, give an order
statistic exactly, in linear time and without a copy of the scores. Of equals, those
that come first count as larger, everywhere.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.core.operators.derived import RANKS, ROW_RANKS
from evomerge.merging.form import Cut
from evomerge.merging.operators.loops.arrays import arrays_of, can_read, in_parts
from evomerge.merging.operators.loops.blocks import Deltas

_SMALL = 1 << 15
"""Up to this many elements one selection is faster than two histograms."""
_SPAN = 1 << 20
"""Elements counted at a time: many for each of a histogram's bins."""
_HALF = 16
"""Bits of a score that one histogram sorts by."""
_LOW = (1 << _HALF) - 1

Score = Callable[[slice], torch.Tensor]
"""fp32 scores of a block of entries; the space they lie in may be overwritten."""
MOST_RANKS = 1 << 16
"""So many are kept in 16 bits."""


def span(deltas: Deltas) -> int:
    """Return how many elements a score is asked for at most."""
    return max(_SPAN, deltas.block_size)


def in_blocks(deltas: Deltas, score: Score) -> Score:
    """Let a score that takes many steps do them in blocks of the usual size.

    Its scratch space then stays in the cache, whatever is asked for at a time.
    """
    out = deltas.scratch(span(deltas))

    def filled(block: slice) -> torch.Tensor:
        for low in range(block.start, block.stop, deltas.block_size):
            part = slice(low, min(low + deltas.block_size, block.stop))
            out[low - block.start : part.stop - block.start] = score(part)
        return out[: block.stop - block.start]

    return filled


def cuts(deltas: Deltas, score: Score, keeps: Sequence[int]) -> list[Cut]:
    """Find the cuts that keep exactly so many entries, those of the largest scores.

    Args:
        deltas: The tensor's inputs.
        score: Not negative.
        keeps: How many entries; all are found in the same passes.
    """
    keys = _Keys(deltas, score, signed=False)
    inside = [keep for keep in keeps if 0 < keep < deltas.n]
    found = dict(zip(inside, keys.find(inside), strict=True))
    return [_cut(deltas, keys, found.get(keep), keep) for keep in keeps]


def values_at(
    deltas: Deltas, score: Score, places: Sequence[int], *, signed: bool = False
) -> list[float]:
    """Return the scores at some places, from 0, of all scores in ascending order.

    Args:
        deltas: The tensor's inputs.
        score: Of every entry.
        places: All are found in the same passes.
        signed: Scores may be negative.
    """
    keys = _Keys(deltas, score, signed=signed)
    found = keys.find([deltas.n - place for place in places])
    return [_number(at.key) for at in found]


@dataclass(frozen=True, slots=True)
class _Place:
    """A place in the order of keys.

    Attributes:
        key: The key that stands there.
        rest: How many of its equals stand there or above.
        ties: How many equals there are.
    """

    key: int
    rest: int
    ties: int


class _Keys:
    """Scores as whole numbers of the same order, block by block."""

    def __init__(self, deltas: Deltas, score: Score, *, signed: bool) -> None:
        self._deltas = deltas
        self._score = score
        self._signed = signed
        self._lowest = -(1 << (_HALF - 1)) if signed else 0

    def find(self, keeps: Sequence[int]) -> list[_Place]:
        """Return where the entries stand that are so many-th from the largest."""
        if not keeps:
            return []
        small = self._deltas.n <= _SMALL
        return self._select(keeps) if small else self._count(keeps)

    def tie(self, key: int, number: int) -> int:
        """Return the flat index of the given entry of a key, counted from 1."""
        for block, keys in self._blocks():
            places = torch.nonzero(keys == key).view(-1)
            if number <= len(places):
                return block.start + int(places[number - 1])
            number -= len(places)
        raise AssertionError("the ties were counted before")

    def _blocks(self) -> Iterator[tuple[slice, torch.Tensor]]:
        for block in self._deltas.blocks(span(self._deltas)):
            bits = self._score(block).view(torch.int32)
            if self._signed:
                # The bits of negative numbers run backwards.
                bits = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)
            yield block, bits

    def _select(self, keeps: Sequence[int]) -> list[_Place]:
        n = self._deltas.n
        ((_, keys),) = self._blocks()
        found = []
        for keep in keeps:
            key = int(torch.kthvalue(keys, n - keep + 1).values)
            above = int(torch.count_nonzero(keys > key))
            ties = int(torch.count_nonzero(keys == key))
            found.append(_Place(key, keep - above, ties))
        return found

    def _count(self, keeps: Sequence[int]) -> list[_Place]:
        device = self._deltas.device
        n_bins = 1 << (_HALF if self._signed else _HALF - 1)
        highs = torch.zeros(n_bins, dtype=torch.int64, device=device)
        for _, keys in self._blocks():
            bins = (keys >> _HALF).sub_(self._lowest)
            highs += torch.bincount(bins, minlength=n_bins)
        reached = [_bin(highs, keep) for keep in keeps]
        lows = {
            high: torch.zeros(1 << _HALF, dtype=torch.int64, device=device)
            for high, _, _ in reached
        }
        for _, keys in self._blocks():
            halves = keys >> _HALF
            for high, low in lows.items():
                inside = keys[halves == high + self._lowest]
                low += torch.bincount(inside & _LOW, minlength=len(low))
        found = []
        for high, rest, _ in reached:
            low_bin, left, ties = _bin(lows[high], rest)
            key = ((high + self._lowest) << _HALF) | low_bin
            found.append(_Place(key, left, ties))
        return found


def _cut(deltas: Deltas, keys: _Keys, at: _Place | None, keep: int) -> Cut:
    if at is None:  # nothing is kept, or everything
        return Cut(math.inf, -1) if keep <= 0 else Cut(0.0, deltas.n)
    last = deltas.n if at.rest == at.ties else keys.tie(at.key, at.rest)
    return Cut(_number(at.key), last)


def _bin(histogram: torch.Tensor, keep: int) -> tuple[int, int, int]:
    """Find the bin where counting down from the top reaches ``keep``.

    Returns:
        The bin, how many of it are wanted, and how many it holds.
    """
    reached = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(reached, keep))
    held = int(histogram[len(histogram) - 1 - place])
    return len(histogram) - 1 - place, keep - (int(reached[place]) - held), held


def _number(key: int) -> float:
    """Return the fp32 number that a key stands for."""
    bits = key ^ 0x7FFFFFFF if key < 0 else key
    return torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()


def row_length(shape: Sequence[int]) -> int:
    """Return how many entries a row has; a vector is one row, so is a number."""
    return shape[-1] if len(shape) else 1


def ranks(sizes: torch.Tensor) -> torch.Tensor:
    """Return each entry's rank in its row: 0 for the smallest.

    Args:
        sizes: Shape ``(rows, length)``.

    Returns:
        Same shape, int64.
    """
    length = sizes.shape[1]
    order = torch.argsort(sizes, dim=1, descending=True, stable=True)
    places = torch.arange(length - 1, -1, -1, device=sizes.device).expand_as(order)
    return torch.empty_like(order).scatter_(1, order, places)


def row_ranks(deltas: Deltas, index: int, row: int) -> torch.Tensor | None:
    """Return each entry's rank in its row, uint16, flat; None if rows are too long."""
    if can_read(deltas):
        find = _row_ranks
    elif deltas.device.type != "cpu":
        find = sorted_ranks
    else:
        return None
    if row > MOST_RANKS:
        return None
    return deltas.recall(ROW_RANKS, (index,), lambda: find(deltas, index, row))


def whole_ranks(deltas: Deltas, index: int) -> torch.Tensor:
    """Return each entry's rank in the whole tensor, int32, flat."""

    def compute() -> torch.Tensor:
        whole = slice(0, deltas.n)
        delta = deltas.read(index, whole, deltas.base(whole), deltas.scratch(deltas.n))
        return ranks(delta.abs_().view(1, -1)).to(torch.int32).view(-1)

    return deltas.recall(RANKS, (index,), compute)


def sorted_ranks(deltas: Deltas, index: int, row: int) -> torch.Tensor:
    """Return each entry's rank in its row, uint16, flat, by sorting on the device."""
    size = max(deltas.block_size // row, 1) * row
    out = torch.empty(deltas.n, dtype=torch.uint16, device=deltas.device)
    space = deltas.scratch(size)
    for block in deltas.blocks(size):
        delta = deltas.read(index, block, deltas.base(block), space)
        out[block] = ranks(delta.abs_().view(-1, row)).view(-1)
    return out


def _row_ranks(deltas: Deltas, index: int, row: int) -> torch.Tensor:
    from evomerge.merging.kernels.order_statistics import pair_rows, spread_ranks

    x, base = arrays_of(deltas, index)
    out = np.empty(deltas.n, dtype=np.uint16)
    at_once = max((1 << 15) // row, 1)  # rows whose pairs stay in the cache

    def loop(low: int, high: int) -> int:
        space = np.empty((min(at_once, high - low), row), dtype=np.uint64)
        for first in range(low, high, at_once):
            end = min(first + at_once, high)
            pairs = space[: end - first]
            pair_rows(x, base, first * row, pairs)
            pairs.sort(axis=1)
            spread_ranks(pairs, out[first * row : end * row])
        return 0

    in_parts(loop, deltas.n // row, multiple_of=1, least=at_once)
    return torch.from_numpy(out)
