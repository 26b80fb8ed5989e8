"""Where an entry of a tensor stands in order of some score, without sorting.

Numbers order like their bits, so a histogram of the high halves, then one of the low
halves within the bin that holds the place, give an order statistic exactly, in linear
time and without a copy of the scores.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from evomerge.merging.operators.blocks import Deltas

_SMALL = 1 << 15
"""Up to this many elements one selection is faster than two histograms."""
_SPAN = 1 << 20
"""Elements counted at a time: many for each of a histogram's bins."""
_HALF = 16
"""Bits of a score that one histogram sorts by."""
_LOW = (1 << _HALF) - 1

Score = Callable[[slice], torch.Tensor]
"""fp32 scores of a block of entries; the space they lie in may be overwritten."""


@dataclass(frozen=True, slots=True)
class Cut:
    """Where a selection cuts: what is larger stays, and of equals the first ones.

    Attributes:
        threshold: Smallest score kept.
        last: Flat index of the last entry of just this score that is kept.
    """

    threshold: float
    last: int


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


def cut(deltas: Deltas, score: Score, keep: int) -> Cut:
    """Find the cut that keeps exactly the ``keep`` entries of the largest scores."""
    if keep <= 0:
        return Cut(math.inf, -1)
    if keep >= deltas.n:
        return Cut(-math.inf, deltas.n)
    keys = _Keys(deltas, score)
    key, rest, ties = keys.find(keep)
    last = deltas.n if rest == ties else keys.tie(key, rest)
    return Cut(_number(key), last)


def value_at(deltas: Deltas, score: Score, place: int) -> float:
    """Return the score at a place, from 0, of all scores in ascending order."""
    key, _, _ = _Keys(deltas, score).find(deltas.n - place)
    return _number(key)


def keep_block(
    at: Cut, block: slice, scores: torch.Tensor, out: torch.Tensor
) -> torch.Tensor:
    """Write 1.0 for what a cut keeps of a block and 0.0 for the rest.

    Args:
        at: Where to cut.
        block: Where the block stands in the flat tensor.
        scores: The block's scores.
        out: As long as the scores; may be the scores themselves.
    """
    middle = min(max(at.last + 1 - block.start, 0), len(scores))
    torch.ge(scores[:middle], at.threshold, out=out[:middle])
    torch.gt(scores[middle:], at.threshold, out=out[middle:])
    return out


class _Keys:
    """Scores as whole numbers of the same order, block by block."""

    def __init__(self, deltas: Deltas, score: Score) -> None:
        self._deltas = deltas
        self._score = score

    def find(self, keep: int) -> tuple[int, int, int]:
        """Return the key of the ``keep``-th largest, and of its equals how many count.

        Returns:
            The key, how many entries of just this key are among the ``keep`` largest,
            and how many there are.
        """
        return self._select(keep) if self._deltas.n <= _SMALL else self._count(keep)

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
            # The bits of negative numbers run backwards.
            yield block, torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits)

    def _select(self, keep: int) -> tuple[int, int, int]:
        n = self._deltas.n
        ((_, keys),) = self._blocks()
        key = int(torch.kthvalue(keys, n - keep + 1).values)
        above = int(torch.count_nonzero(keys > key))
        ties = int(torch.count_nonzero(keys == key))
        return key, keep - above, ties

    def _count(self, keep: int) -> tuple[int, int, int]:
        device = self._deltas.device
        highs = torch.zeros(1 << _HALF, dtype=torch.int64, device=device)
        for _, keys in self._blocks():
            bins = (keys >> _HALF).add_(1 << (_HALF - 1))
            highs += torch.bincount(bins, minlength=len(highs))
        high, rest, _ = _bin(highs, keep)
        high -= 1 << (_HALF - 1)
        lows = torch.zeros(1 << _HALF, dtype=torch.int64, device=device)
        for _, keys in self._blocks():
            inside = keys[(keys >> _HALF) == high]
            lows += torch.bincount(inside & _LOW, minlength=len(lows))
        low, rest, ties = _bin(lows, rest)
        return (high << _HALF) | low, rest, ties


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
