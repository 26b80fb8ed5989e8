"""Thinning of differences by their size: how many stay, and their norm."""

import math
from collections.abc import Sequence

import torch

from evomerge.core.operators.catalogue import Knob
from evomerge.core.space import GRID_STEPS, FloatAxis
from evomerge.merging.operators.inputs import Cut
from evomerge.merging.operators.loops.blocks import Deltas, total
from evomerge.merging.operators.loops.onepass import can_sum, fused_sizes
from evomerge.merging.operators.loops.order_statistics import (
    keep_block,
)
from evomerge.merging.operators.loops.thinning import Step, Steps, Thin, scaled
from evomerge.merging.operators.thresholds.magnitude_thresholds import each_size_cuts

_HUNDREDTHS = 100


def keep_count(density: float, n: int, *, guard: bool = True) -> int:
    """Return how many of ``n`` entries a density keeps: at least 1 unless it is 0.

    Args:
        density: The part to keep.
        n: Number of entries.
        guard: Do not let 0.7 * 10 lose an entry to rounding; mergekit does.
    """
    if density <= 0 or n == 0:
        return 0
    return min(n, max(1, whole(density * n, guard=guard)))


def whole(count: float, *, guard: bool = True) -> int:
    """Round a computed number of entries down, guarded against its own rounding."""
    return math.floor(count + 1e-9 if guard else count)


def trim(deltas: Deltas, densities: Sequence[float], *, guard: bool = True) -> Thin:
    """Keep the largest differences of each input, the given part of them."""
    counts = [keep_count(density, deltas.n, guard=guard) for density in densities]
    wanted = [() if keep >= deltas.n else (keep,) for keep in counts]
    found = each_size_cuts(deltas, wanted)
    return cut_each(deltas, [cuts[0] if cuts else None for cuts in found])


def cut_each(deltas: Deltas, found: Sequence[Cut | None]) -> Steps:
    """Keep what a cut by size leaves of each input; None leaves everything."""
    space = deltas.scratch()

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        cut = found[index]
        if cut is not None:
            sizes = torch.abs(delta, out=space[: len(delta)])
            # Plus zero, because what goes leaves no sign behind.
            delta.mul_(keep_block(cut, block, sizes, sizes)).add_(0.0)

    return Steps(thin, tuple(Step(cut=cut) for cut in found))


def keep_l1(deltas: Deltas, thin: Thin) -> Thin:
    """Scale what a thinning keeps of each input so that its L1 norm stays."""
    return scaled(
        thin, tuple(_l1_factor(deltas, thin, index) for index in range(len(deltas)))
    )


def _l1_factor(deltas: Deltas, thin: Thin, index: int) -> float:
    """Return by what the kept entries grow so that their L1 norm is the whole one's."""
    if isinstance(thin, Steps) and can_sum(deltas, thin):
        full, kept = fused_sizes(deltas, thin, index)
        return full / kept if kept > 0 else 1.0
    sums = torch.zeros(2, dtype=torch.float64, device=deltas.device)
    left, right = deltas.scratch(), deltas.scratch()
    for block in deltas.blocks():
        delta = deltas.read(index, block, deltas.base(block), left)
        sums[0] += total(torch.abs(delta, out=right[: len(delta)]))
        thin(index, block, delta)
        sums[1] += total(delta.abs_())
    full, kept = sums.tolist()
    return full / kept if kept > 0 else 1.0


def drawn_from(knob: Knob) -> tuple[float, ...]:
    """Return what a search over a knob's usual range draws, and hundredths; ascending.

    Args:
        knob: A part of a whole, with a range.
    """
    assert knob.low is not None
    assert knob.high is not None
    axis = FloatAxis("", knob.low, knob.high, log=knob.log)
    drawn = {axis.value(step / GRID_STEPS) for step in range(GRID_STEPS)}
    return tuple(sorted(drawn | {k / _HUNDREDTHS for k in range(1, _HUNDREDTHS)}))
