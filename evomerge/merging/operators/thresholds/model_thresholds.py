"""Where the sizes of one input's differences cut when a whole model is trimmed as one.

The authors of TIES flatten the model and keep the largest differences of all of it; a
tensor whose differences are small then keeps few, or none. The cuts of all densities on
the catalogue's grid are found together, in three passes over the tensors.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.merging.form import Cut, Step
from evomerge.merging.operators.inputs import ModelShare
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import span
from evomerge.merging.operators.thresholds.magnitude_thresholds import Cuts
from evomerge.merging.operators.thresholds.sparsify import keep_count

_HALF = 16
"""Bits of a size that one histogram sorts by."""
_HIGHS = 1 << (_HALF - 1)
_LOWS = 1 << _HALF

Read = Callable[[], Deltas]
"""Gives the differences of one input in one tensor of the model."""


@dataclass(frozen=True, slots=True)
class Share:
    """What one tensor is of all that is trimmed as one.

    Attributes:
        n: Entries of all tensors.
        start: How many of them come before this tensor's.
        cuts: Of all tensors; places count from the first entry of the first.
    """

    n: int
    start: int
    cuts: Cuts

    def cut(self, keep: int, length: int) -> Cut | None:
        """See :meth:`ModelShare.cut`."""
        if keep >= self.n:
            return None
        found = Cut(math.inf, -1) if keep <= 0 else self.cuts.find(keep)
        assert found is not None, "cuts are found for every density of the merge"
        return Cut(found.threshold, max(min(found.last - self.start, length), -1))


def trim_in_model(
    deltas: Deltas,
    shares: Sequence[ModelShare],
    densities: Sequence[float],
    *,
    guard: bool = True,
) -> tuple[Step, ...]:
    """Keep the largest differences of each input over the whole model.

    Args:
        deltas: Those of one tensor.
        shares: What it is of the model, by input.
        densities: The part to keep, by input.
        guard: As for ``keep_count``.
    """
    found = [
        share.cut(keep_count(density, share.n, guard=guard), deltas.n)
        for share, density in zip(shares, densities, strict=True)
    ]
    return tuple(Step(cut=cut) for cut in found)


def model_cuts(tensors: Sequence[Read], keeps: Sequence[int]) -> Cuts:
    """Find the cuts that keep exactly so many entries of all tensors, the largest.

    Args:
        tensors: Each of one input; read three times, one at a time. Of equal sizes the
            first in this order stay.
        keeps: How many entries, each at least 1 and less than there are.
    """
    counts = torch.tensor(sorted(set(keeps)), dtype=torch.int64)
    if not len(counts):
        return Cuts(counts, torch.empty(0), counts)
    highs = torch.zeros(_HIGHS, dtype=torch.int64)
    for _, keys in _keys(tensors):
        highs += torch.bincount(keys >> _HALF, minlength=_HIGHS).cpu()
    bins, rests = _reached(highs[None], torch.zeros_like(counts), counts)
    wanted, rows = torch.unique(bins, return_inverse=True)
    # Half the space where it will do.
    few = int(highs.max()) < 1 << 31
    lows = _low_counts(tensors, wanted, torch.int32 if few else torch.int64)
    low, numbers = _reached(lows, rows, rests)
    keys = (bins << _HALF) | low
    total = int(highs.sum())
    lasts = torch.full_like(counts, total)
    cut_short = numbers < lows[rows, low]
    if bool(cut_short.any()):
        lasts[cut_short] = _places(tensors, keys[cut_short], numbers[cut_short])
    return Cuts(counts, keys.to(torch.int32).view(torch.float32), lasts)


def _keys(tensors: Sequence[Read]) -> Iterator[tuple[int, torch.Tensor]]:
    """Read sizes as whole numbers of the same order, with the place of the first."""
    start = 0
    for read in tensors:
        deltas = read()
        size = span(deltas)
        space = deltas.scratch(size)
        for block in deltas.blocks(size):
            sizes = deltas.read(0, block, deltas.base(block), space).abs_()
            yield start + block.start, sizes.view(torch.int32)
        start += deltas.n


def _reached(
    counts: torch.Tensor, rows: torch.Tensor, keeps: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Find where counting down from the top of a row's bins reaches each number.

    Returns:
        The bin, and how many of it are wanted.
    """
    bins, rests = torch.empty_like(keeps), torch.empty_like(keeps)
    for row in torch.unique(rows).tolist():
        mine = (rows == row).nonzero()[:, 0]
        # Not by torch: its threads wait for each other longer than this takes.
        held, asked = counts[row].numpy()[::-1], keeps[mine].numpy()
        down = np.cumsum(held, dtype=np.int64)
        steps = np.searchsorted(down, asked)
        bins[mine] = torch.from_numpy(len(down) - 1 - steps)
        rests[mine] = torch.from_numpy(asked - down[steps] + held[steps])
    return bins, rests


def _low_counts(
    tensors: Sequence[Read], wanted: torch.Tensor, dtype: torch.dtype
) -> torch.Tensor:
    """Count low halves within some high ones: shape ``(wanted, 2**16)``."""
    row_of = torch.full((_HIGHS,), -1, dtype=torch.int64)
    row_of[wanted] = torch.arange(len(wanted))
    lows = torch.zeros(len(wanted) * _LOWS, dtype=dtype)
    for _, keys in _keys(tensors):
        row_of, lows = row_of.to(keys.device), lows.to(keys.device)
        rows = row_of[keys >> _HALF]
        inside = rows >= 0
        places = (rows[inside] << _HALF) | (keys[inside] & (_LOWS - 1))
        lows.index_add_(0, places, torch.ones_like(places, dtype=dtype))
    return lows.cpu().view(-1, _LOWS)


def _places(
    tensors: Sequence[Read], keys: torch.Tensor, numbers: torch.Tensor
) -> torch.Tensor:
    """Return the place of the given entry of each key, entries counted from 1."""
    different, of = torch.unique(keys, return_inverse=True)
    seen = torch.zeros_like(different)
    out = torch.full_like(numbers, -1)
    for start, found in _keys(tensors):
        here = torch.searchsorted(different.to(found.device), found)
        here.clamp_(max=len(different) - 1)
        equal = different.to(found.device)[here] == found
        which, places = here[equal].cpu(), equal.nonzero()[:, 0].cpu()
        after = seen + torch.bincount(which, minlength=len(different))
        due = (seen[of] < numbers) & (numbers <= after[of])
        for i in due.nonzero()[:, 0].tolist():
            mine = places[which == of[i]]
            out[i] = start + mine[int(numbers[i] - seen[of[i]]) - 1]
        seen = after
    return out
