"""Where the variance over the inputs cuts, and the energies of what a cut keeps.

Neither depends on the candidate. They are found together for every part on the scale
that a search draws from, once for the inputs and a base, and kept; a candidate looks
its own up.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evomerge.core.operators.derived import ONE_VARIANCE, VARIANCES
from evomerge.core.operators.selected import SELECT_TOPK
from evomerge.merging.constants import CELLS
from evomerge.merging.form import Cut, Form, Total, Varied
from evomerge.merging.operators.executors.formulas import variances
from evomerge.merging.operators.executors.steps import thinned_blocks
from evomerge.merging.operators.loops.arrays import can_count
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import (
    Score,
    cuts,
    in_blocks,
)
from evomerge.merging.operators.sums.variance_histogram import (
    Counting,
    rounded,
    squares,
)
from evomerge.merging.operators.thresholds.sparsify import drawn_from, whole

_INFINITE = 0x7F800000
"""The key of infinity."""

Array = npt.NDArray[Any]


@dataclass(frozen=True, slots=True)
class Selection:
    """The entries in which the inputs vary most.

    Attributes:
        cut: Smallest variance; None if all entries are selected.
        energies: Sum of the squares of each input's selected differences.
        near: The largest variance that there is below the smallest selected one, and
            the smallest above; this one itself where nothing is known.
    """

    cut: Cut | None
    energies: tuple[float, ...]
    near: tuple[float, float] = (0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Selections:
    """Selections of so many entries, for many numbers.

    Attributes:
        varied: How many entries have a variance at all.
        counts: int64, ascending: how many entries are selected.
        thresholds: fp32: the smallest variance selected.
        lasts: int64: flat index of the last entry of that variance that is selected.
        near: fp32, shape ``(len(counts), 2)``: the variances next to the smallest
            selected one, below and above.
        energies: fp64, shape ``(len(counts) + 1, inputs)``; the last row is of all
            entries.
    """

    varied: int
    counts: torch.Tensor
    thresholds: torch.Tensor
    lasts: torch.Tensor
    near: torch.Tensor
    energies: torch.Tensor

    def find(self, keep: int | None) -> Selection | None:
        """Return the selection of so many entries, None for all, if it is here."""
        if keep is None:
            return Selection(None, tuple(self.energies[-1].tolist()))
        if keep <= 0:
            return Selection(Cut(math.inf, -1), (0.0,) * self.energies.shape[1])
        at = int(torch.searchsorted(self.counts, keep))
        if at == len(self.counts) or int(self.counts[at]) != keep:
            return None
        cut = Cut(float(self.thresholds[at]), int(self.lasts[at]))
        below, above = self.near[at].tolist()
        return Selection(cut, tuple(self.energies[at].tolist()), (below, above))


def selection(deltas: Deltas, part: float, *, guard: bool) -> Selection:
    """Select a part of the entries that vary, those that vary most.

    Args:
        deltas: The inputs.
        part: From 0 to 1; with 1 all entries are selected, those that do not vary too.
        guard: Do not let 0.7 * 10 lose an entry to rounding; mergekit does.
    """
    everything = range(len(deltas))
    if not can_count(deltas):
        kind = ONE_VARIANCE.at(part, guard)
        return deltas.recall(kind, everything, lambda: select(deltas, part, guard))

    def keep(varied: int) -> int | None:
        return None if part >= 1.0 else whole(part * varied, guard=guard)

    def only(varied: int) -> Sequence[int]:
        return (keep(varied) or 0,)

    usual = _usual if deltas.is_known else only
    table = deltas.recall(VARIANCES, everything, lambda: _table(deltas, usual))
    wanted = keep(table.varied)
    found = table.find(wanted)
    if found is None:  # not on the scale
        kind = ONE_VARIANCE.at(wanted or 0)
        table = deltas.recall(kind, everything, lambda: _table(deltas, only))
        found = table.find(wanted)
    assert found is not None
    return found


def select(deltas: Deltas, part: float, guard: bool) -> Selection:
    """Do what :func:`selection` does step by step, wherever the tensors lie."""
    cut = None if part >= 1.0 else _cut(deltas, part, guard)
    near = (0.0 if cut is None else cut.threshold,) * 2
    among = None if cut is None else Varied(cut, near)
    return Selection(cut, energies(deltas, Form(Total(()), among=among)), near)


def energies(deltas: Deltas, form: Form) -> tuple[float, ...]:
    """Return the sums of the squares of what a form's thinning leaves of each input."""
    sums = torch.zeros(len(deltas), CELLS + 1, dtype=torch.int64, device=deltas.device)
    for _, left in thinned_blocks(deltas, form):
        for index, values in enumerate(left):
            sums[index] += squares(values)
    return tuple(rounded(sums.cpu().numpy()).tolist())


def variance(deltas: Deltas) -> Score:
    """Score an entry by the variance of its differences over the inputs."""
    spaces = [deltas.scratch() for _ in range(len(deltas))]

    def score(block: slice) -> torch.Tensor:
        base = deltas.base(block)
        return variances([deltas.read(i, block, base, s) for i, s in enumerate(spaces)])

    return score


def _cut(deltas: Deltas, part: float, guard: bool) -> Cut:
    score = variance(deltas)
    varied = sum(int(torch.count_nonzero(score(block))) for block in deltas.blocks())
    keep = whole(part * varied, guard=guard)
    return cuts(deltas, in_blocks(deltas, score), (keep,))[0]


def _usual(varied: int) -> Sequence[int]:
    """Return how many entries the parts on the scale select, however they round."""
    parts = [part * varied for part in _scale()]
    return [whole(count, guard=guard) for count in parts for guard in (False, True)]


@lru_cache(maxsize=1)
def _scale() -> tuple[float, ...]:
    return drawn_from(SELECT_TOPK)


def _table(deltas: Deltas, wanted: Callable[[int], Sequence[int]]) -> Selections:
    counting = Counting(deltas)
    highs, zeros = counting.highs()
    varied = deltas.n - zeros
    keeps = np.array(sorted({k for k in wanted(varied) if k > 0}), dtype=np.int64)
    keys, rests, tables = counting.find(highs, keeps)
    lasts, sums, ends = counting.gather(keys, rests, tables)
    return Selections(
        varied,
        torch.from_numpy(keeps),
        _numbers(keys),
        torch.from_numpy(lasts),
        _numbers(_near(keys, ends)),
        torch.from_numpy(rounded(np.cumsum(sums, axis=0))),
    )


def _near(keys: Array, ends: Array) -> Array:
    """Return the keys next to cuts, below and above: shape ``(len(keys), 2)``.

    Args:
        keys: Of the cuts.
        ends: The lowest and the highest key in each interval between cuts; in an empty
            one the lowest is above the highest.
    """
    there = np.unique([*keys, *ends[ends[:, 0] <= ends[:, 1]].ravel(), 0, _INFINITE])
    at = np.searchsorted(there, keys)
    above = np.minimum(at + 1, len(there) - 1)
    return np.stack([there[np.maximum(at - 1, 0)], there[above]], axis=1)


def _numbers(keys: Array) -> torch.Tensor:
    """Return the fp32 numbers that keys stand for."""
    return torch.from_numpy(keys.astype(np.int32)).view(torch.float32)
