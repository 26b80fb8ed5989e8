"""Thinning of differences: by size (TIES) and at random (DARE)."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch

from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.linear import Thin

_SMALL = 1 << 15
"""Up to this many elements one selection is faster than two histograms."""
_SPAN = 1 << 20
"""Elements counted at a time: many for each of a histogram's bins."""
_HALF = 16
"""Bits of a magnitude that one histogram sorts by."""


def keep_count(density: float, n: int) -> int:
    """Return how many of ``n`` entries a density keeps: at least 1 unless it is 0."""
    if density <= 0 or n == 0:
        return 0
    # The small addition keeps 0.7 * 10 from losing an entry to rounding.
    return max(1, math.floor(density * n + 1e-9))


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a trim cuts: what is larger stays, and of equals the first ones.

    Attributes:
        threshold: Smallest magnitude kept.
        last: Flat index of the last entry of just this magnitude that is kept.
    """

    threshold: float
    last: int


def magnitude_cut(deltas: Deltas, index: int, keep: int) -> Cut:
    """Find the cut that keeps exactly the ``keep`` largest differences of an input.

    Exact and without sorting: magnitudes order like their bits, so a histogram of the
    high halves, then one of the low halves within the bin that holds the cut, give the
    threshold in linear time and without a copy of the differences.
    """
    if keep <= 0:
        return Cut(math.inf, -1)
    if keep >= deltas.n:
        return Cut(0.0, deltas.n)
    magnitudes = _Magnitudes(deltas, index)
    if deltas.n <= _SMALL:
        bits, rest, ties = _select(magnitudes, keep)
    else:
        bits, rest, ties = _count(magnitudes, keep)
    threshold = torch.tensor(bits, dtype=torch.int32).view(torch.float32).item()
    last = deltas.n if rest == ties else _find_tie(magnitudes, bits, rest)
    return Cut(threshold, last)


class _Magnitudes:
    """Bits of the absolute differences of one input, block by block."""

    def __init__(self, deltas: Deltas, index: int) -> None:
        self.deltas = deltas
        self._index = index
        self._space = deltas.scratch(max(_SPAN, deltas.block_size))

    def blocks(self) -> Iterator[slice]:
        """Cut the flat elements into the spans that are counted at a time."""
        return self.deltas.blocks(len(self._space) or 1)

    def bits(self, block: slice) -> torch.Tensor:
        """Return the block's magnitudes as int32; overwritten by the next call."""
        base = self.deltas.base(block)
        delta = self.deltas.read(self._index, block, base, self._space)
        return delta.abs_().view(torch.int32)


def _select(magnitudes: _Magnitudes, keep: int) -> tuple[int, int, int]:
    """Return threshold bits, ties to keep and ties there are; for one block."""
    n = magnitudes.deltas.n
    bits = magnitudes.bits(slice(0, n))
    threshold = int(torch.kthvalue(bits, n - keep + 1).values)
    above = int(torch.count_nonzero(bits > threshold))
    ties = int(torch.count_nonzero(bits == threshold))
    return threshold, keep - above, ties


def _count(magnitudes: _Magnitudes, keep: int) -> tuple[int, int, int]:
    """Return threshold bits, ties to keep and ties there are; by histograms."""
    device = magnitudes.deltas.device
    highs = torch.zeros(1 << (31 - _HALF), dtype=torch.int64, device=device)
    for block in magnitudes.blocks():
        bits = magnitudes.bits(block)
        highs += torch.bincount(bits >> _HALF, minlength=len(highs))
    high, rest, _ = _cut_bin(highs, keep)
    lows = torch.zeros(1 << _HALF, dtype=torch.int64, device=device)
    for block in magnitudes.blocks():
        bits = magnitudes.bits(block)
        inside = bits[(bits >> _HALF) == high]
        lows += torch.bincount(inside & ((1 << _HALF) - 1), minlength=len(lows))
    low, rest, ties = _cut_bin(lows, rest)
    return (high << _HALF) | low, rest, ties


def _cut_bin(histogram: torch.Tensor, keep: int) -> tuple[int, int, int]:
    """Find the bin where counting down from the top reaches ``keep``.

    Returns:
        The bin, how many of it are wanted, and how many it holds.
    """
    reached = histogram.flip(0).cumsum(0)
    place = int(torch.searchsorted(reached, keep))
    held = int(histogram[len(histogram) - 1 - place])
    return len(histogram) - 1 - place, keep - (int(reached[place]) - held), held


def _find_tie(magnitudes: _Magnitudes, threshold: int, number: int) -> int:
    """Return the flat index of the given tie, counted from 1."""
    for block in magnitudes.blocks():
        places = torch.nonzero(magnitudes.bits(block) == threshold).view(-1)
        if number <= len(places):
            return block.start + int(places[number - 1])
        number -= len(places)
    raise AssertionError("the ties were counted before")


def trim(deltas: Deltas, densities: Sequence[float]) -> Thin:
    """Keep the largest differences of each input, the given part of them."""
    counts = [keep_count(density, deltas.n) for density in densities]
    cuts = [magnitude_cut(deltas, i, keep) for i, keep in enumerate(counts)]
    space = deltas.scratch()

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        if counts[index] < deltas.n:
            cut_block(cuts[index], block, delta, space)

    return thin


def cut_block(cut: Cut, block: slice, delta: torch.Tensor, space: torch.Tensor) -> None:
    """Zero, in place, what a cut drops from a block of differences.

    Args:
        cut: Where to cut.
        block: Where the block stands in the flat tensor.
        delta: The block's differences, fp32, changed in place.
        space: fp32, at least as long, overwritten.
    """
    middle = min(max(cut.last + 1 - block.start, 0), len(delta))
    kept = torch.abs(delta, out=space[: len(delta)])
    torch.ge(kept[:middle], cut.threshold, out=kept[:middle])
    torch.gt(kept[middle:], cut.threshold, out=kept[middle:])
    delta.mul_(kept)
