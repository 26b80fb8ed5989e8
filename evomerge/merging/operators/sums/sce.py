"""SCE (Wan et al. 2024, 2408.07990): select by variance, weigh by energy, erase."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.constants import CELLS
from evomerge.merging.operators.inputs import Cut, Inputs
from evomerge.merging.operators.loops.arrays import Arrays, Part
from evomerge.merging.operators.loops.blocks import Deltas, stacks
from evomerge.merging.operators.loops.lazy_merge import LazyMerge
from evomerge.merging.operators.loops.onepass import Rule, can_fuse
from evomerge.merging.operators.loops.order_statistics import (
    keep_block,
)
from evomerge.merging.operators.loops.thinning import Step, Steps, Thin
from evomerge.merging.operators.sums.ties import Election
from evomerge.merging.operators.sums.variance_histogram import rounded, squares
from evomerge.merging.operators.sums.variances import Selection, selection, variance

_FAINT = 1e-30
"""Squares in fp32 may vanish where their sums are below this."""
_BEYOND = 2.0**128
"""What infinity is to the rounding of fp64 to fp32: the number after the largest."""

Bounds = tuple[np.float32, np.float32, np.float32]


def sce(inputs: Inputs) -> Average:
    """Average those who agree, by their energy where the inputs differ most.

    The selection of entries decides the weights; with the scope ``all``, as mergekit
    has it, it drops the other entries as well.
    """
    settings = inputs.settings
    deltas = Deltas.of(inputs)
    found = _selection(deltas, settings)
    shares = _shares(found.energies, settings.number("floor") * deltas.n)
    rule = Rule(shares, settings.number("lambda"), plain=True)
    everywhere = settings.choice("mask_scope") == "all"
    return Average(deltas, found, rule, everywhere)


@dataclass(frozen=True, slots=True)
class Average(LazyMerge):
    """An average of those who agree, decided and not carried out yet.

    Attributes:
        deltas: What is averaged.
        found: The selected entries.
        rule: By which weights, none below zero.
        everywhere: Entries that are not selected are dropped.
    """

    deltas: Deltas
    found: Selection
    rule: Rule
    everywhere: bool

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        if self.deltas.start() is None or not can_fuse(self.deltas, None, out):
            thin = _thin(self.deltas, self.found.cut if self.everywhere else None)
            return Election(self.deltas, thin, self.rule).into(out)
        return self._in_one_pass(out)

    def _in_one_pass(self, out: torch.Tensor) -> bool:
        from evomerge.merging.kernels.averages import average, average_where

        weights = tuple(np.float32(weight) for weight in self.rule.weights)
        how = (weights, np.float32(self.rule.scale))
        arrays, cut = Arrays.of(self.deltas, out), self.found.cut
        if cut is None or not self.everywhere:
            return arrays.are_finite(lambda part, _: average(part, *how), paired=True)
        split = cut.last + 1
        first, others = _edges(self.found, cut, len(self.deltas))

        def merge(part: Part, low: int) -> int:
            where = first if low < split else others
            return int(average_where(part, *how, *where))

        return arrays.are_finite(merge, split, paired=True)


def _edges(
    found: Selection, cut: Cut, n: int
) -> tuple[tuple[np.float64, Bounds], tuple[np.float64, Bounds]]:
    """Return from which sum of squares on entries stay, and when fp32 can tell.

    Anywhere between the variances that there are will do; far from both fp32 can tell
    for more entries.

    Returns:
        For entries up to the last tie that stays, and for those after it.
    """
    below, above = found.near
    below, above = min(below, cut.threshold), max(above, cut.threshold)
    ends = (
        edge(below, n, beyond=below < cut.threshold),
        edge(cut.threshold, n),
        edge(cut.threshold, n, beyond=True),
        edge(above, n, beyond=above == cut.threshold),
    )
    first, others = (ends[0] + ends[1]) / 2, (ends[2] + ends[3]) / 2
    return (
        (np.float64(first), _bounds(first, n)),
        (np.float64(others), _bounds(others, n)),
    )


def _bounds(middle: float, n: int) -> Bounds:
    """Return an edge in fp32, between where sums in fp32 are surely below and above.

    The sum of the squares of differences from the first input is off by ``n + 1``
    roundings of 2**-24, the square of their sum by ``2 * n + 1``; subtracted, at least
    one part of ``n`` of the squares is left, and the last steps round, too.
    """
    if math.isnan(middle):  # nothing stays
        return np.float32(math.inf), np.float32(math.nan), np.float32(math.inf)
    if middle < _FAINT:
        return np.float32(-1.0), np.float32(middle), np.float32(math.inf)
    apart = n * (3 * n + 6) * 2.0**-24
    with np.errstate(over="ignore"):
        low, high = np.float32(middle * (1 - apart)), np.float32(middle * (1 + apart))
        return low, np.float32(middle), high


def edge(threshold: float, n: int, *, beyond: bool = False) -> float:
    """Return from which sum of squares on a variance reaches a threshold in fp32.

    The sum is divided by ``n`` in fp64 and rounded to fp32; comparing the sum itself
    saves both.

    Args:
        threshold: fp32.
        n: Number of inputs.
        beyond: The variance must be larger than the threshold.

    Returns:
        No number if no sum is enough.
    """
    least = np.float32(threshold)
    if math.isnan(threshold) or (beyond and math.isinf(threshold)):
        return math.nan
    if beyond:
        with np.errstate(over="ignore"):  # beyond the largest number is infinity
            least = np.nextafter(least, np.float32(math.inf))
    if least <= 0.0:
        return 0.0
    below = float(np.nextafter(least, np.float32(0.0)))
    middle = (below + (_BEYOND if np.isinf(least) else float(least))) / 2
    with np.errstate(over="ignore"):
        rounds_up = np.float32(middle) >= least
    wanted = middle if rounds_up else math.nextafter(middle, math.inf)
    found = wanted * n
    while found / n >= wanted:
        found = math.nextafter(found, 0.0)
    while found / n < wanted:
        found = math.nextafter(found, math.inf)
    return found


def nothing(deltas: Deltas) -> Thin:
    """Return the thinning that drops nothing."""
    return Steps(leave, (Step(),) * len(deltas))


def leave(index: int, block: slice, delta: torch.Tensor) -> None:
    """Drop nothing."""


def select(deltas: Deltas, settings: Settings) -> Thin:
    """Keep the entries, the same of every input, in which the inputs vary most.

    Args:
        deltas: What to thin.
        settings: Read for ``select_topk`` and ``rounding``.
    """
    return _thin(deltas, _selection(deltas, settings).cut)


def _selection(deltas: Deltas, settings: Settings) -> Selection:
    guard = settings.choice("rounding") != "int"
    return selection(deltas, settings.number("select_topk"), guard=guard)


def _thin(deltas: Deltas, cut: Cut | None) -> Thin:
    return nothing(deltas) if cut is None else _Dropping(deltas, cut)


class _Dropping:
    """Zeroes what a cut by variance drops; finds it once for all inputs of a block."""

    def __init__(self, deltas: Deltas, at: Cut) -> None:
        self._variance = variance(deltas)
        self._at = at
        self._kept = deltas.scratch()
        self._block = slice(0, 0)

    def __call__(self, index: int, block: slice, delta: torch.Tensor) -> None:
        kept = self._kept[: len(delta)]
        if block != self._block:
            keep_block(self._at, block, self._variance(block), kept)
            self._block = block
        delta.mul_(kept)


def energies(deltas: Deltas, thin: Thin) -> tuple[float, ...]:
    """Return each input's share of the squares of what a thinning leaves."""
    sums = torch.zeros(len(deltas), CELLS + 1, dtype=torch.int64, device=deltas.device)
    for block, _, read in stacks(deltas):
        for index, delta in enumerate(read):
            thin(index, block, delta)
            sums[index] += squares(delta)
    return _shares(tuple(rounded(sums.cpu().numpy()).tolist()), 0.0)


def _shares(squared: Sequence[float], least: float) -> tuple[float, ...]:
    """Return each sum's part of all; where they sum to less, all are alike."""
    whole = sum(squared)
    if whole == 0.0 or whole < least:
        return (1.0 / len(squared),) * len(squared)
    if math.isinf(whole):  # nothing can be said of the parts
        return (math.nan,) * len(squared)
    return tuple(part / whole for part in squared)
