"""Model Breadcrumbs (Davari and Belilovsky 2023, 2312.06795).

The smallest differences are noise and the few largest are outliers: both go, and what
lies between them stays.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.inputs import Cut, Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.onepass import Rule
from evomerge.merging.operators.loops.order_statistics import (
    keep_block,
    ranks,
    row_length,
    row_ranks,
)
from evomerge.merging.operators.loops.thinning import RankBand, Step, Steps, Thin
from evomerge.merging.operators.sums.linear import Sum, delta_factors
from evomerge.merging.operators.sums.ties import Election
from evomerge.merging.operators.thresholds.magnitude_thresholds import each_size_cuts
from evomerge.merging.operators.thresholds.sparsify import keep_count, keep_l1, whole


def breadcrumbs(inputs: Inputs) -> Sum:
    """Add the weighted sum of middle-sized differences to the base."""
    deltas = _deltas(inputs)
    return Sum(deltas, *delta_factors(inputs.settings), band(inputs.settings, deltas))


def breadcrumbs_ties(inputs: Inputs) -> Election:
    """Elect signs among middle-sized differences and merge those who agree."""
    deltas = _deltas(inputs)
    return Election(deltas, band(inputs.settings, deltas), Rule.of(inputs.settings))


@dataclass(frozen=True, slots=True)
class Band:
    """Which entries stay, counted from the largest down: ``top`` go, ``keep`` stay."""

    top: int
    keep: int


def band_of(density: float, gamma: float, n: int, *, guard: bool = True) -> Band:
    """Return the band of ``n`` entries that a density and a top part leave.

    The density comes first: where too few entries would be left, fewer of the largest
    go. Without the guard it is mergekit's band, which may keep nothing.
    """
    keep = keep_count(density, n) if guard else whole(density * n, guard=False)
    return Band(min(whole(gamma * n, guard=guard), n - keep), keep)


def band(settings: Settings, deltas: Deltas) -> Thin:
    """Return the thinning that the settings ask for.

    Args:
        settings: Read for ``density``, ``gamma``, ``axis``, ``rescale``, ``rounding``.
        deltas: What to thin; for the axis ``row`` its blocks are whole rows.
    """
    by_row = settings.choice("axis") == "row"
    n = row_length(deltas.shape) if by_row else deltas.n
    pairs = zip(settings.numbers("density"), settings.numbers("gamma"), strict=True)
    guard = settings.choice("rounding") != "int"
    bands = [band_of(density, gamma, n, guard=guard) for density, gamma in pairs]
    thin = _in_rows(bands, deltas, n) if by_row else _in_tensor(bands, deltas)
    return keep_l1(deltas, thin) if settings.choice("rescale") == "l1" else thin


def _deltas(inputs: Inputs) -> Deltas:
    by_row = inputs.settings.choice("axis") == "row"
    return Deltas.of(inputs, multiple_of=row_length(inputs.shape) if by_row else 1)


def _in_tensor(bands: Sequence[Band], deltas: Deltas) -> Thin:
    cuts = each_size_cuts(deltas, [_wanted(at, deltas.n) for at in bands])
    steps = tuple(_step(found) for found in cuts)
    left, right = deltas.scratch(), deltas.scratch()

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        step = steps[index]
        if step.cut is None:
            return
        sizes = torch.abs(delta, out=left[: len(delta)])
        if step.top is not None:
            gone = keep_block(step.top, block, sizes, right[: len(delta)])
            delta.mul_(gone.neg_().add_(1.0))
        # Plus zero, because what goes leaves no sign behind.
        delta.mul_(keep_block(step.cut, block, sizes, sizes)).add_(0.0)

    return Steps(thin, steps)


def _wanted(at: Band, n: int) -> tuple[int, ...]:
    """Return after how many entries a band is cut off."""
    if at.keep == n:
        return ()
    return (at.top, at.top + at.keep) if at.top else (at.keep,)


def _step(found: Sequence[Cut]) -> Step:
    top = found[0] if len(found) > 1 else None
    return Step(cut=found[-1] if found else None, top=top)


def _in_rows(bands: Sequence[Band], deltas: Deltas, length: int) -> Thin:
    known = [
        None if at.keep == length else row_ranks(deltas, index, length)
        for index, at in enumerate(bands)
    ]

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        top, keep = bands[index].top, bands[index].keep
        if keep == length:
            return
        found = known[index]
        if found is None:  # a row too long to be kept
            rank = ranks(delta.view(-1, length).abs()).view(-1)
        else:
            rank = found[block].to(torch.int32)
        delta.mul_((rank >= length - top - keep) & (rank < length - top))

    if deltas.device.type != "cpu":
        return thin
    steps: list[Step] = []
    for at, found in zip(bands, known, strict=True):
        if at.keep == length:
            steps.append(Step())
        elif found is None:
            return thin
        else:
            first = length - at.top - at.keep
            steps.append(Step(coin=RankBand(found, first, first + at.keep)))
    return Steps(thin, tuple(steps))
