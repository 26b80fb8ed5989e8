"""Thinning of differences by their size: how many stay, and their norm."""

import math
from collections.abc import Sequence

import torch

from evomerge.core.operators.catalogue import Knob
from evomerge.core.space import GRID_STEPS, FloatAxis
from evomerge.merging.form import Step
from evomerge.merging.operators.executors.processor import can_sum, sizes
from evomerge.merging.operators.executors.steps import left_blocks
from evomerge.merging.operators.loops.blocks import Deltas, total
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


def trim(
    deltas: Deltas, densities: Sequence[float], *, guard: bool = True
) -> tuple[Step, ...]:
    """Keep the largest differences of each input, the given part of them."""
    counts = [keep_count(density, deltas.n, guard=guard) for density in densities]
    wanted = [() if keep >= deltas.n else (keep,) for keep in counts]
    found = each_size_cuts(deltas, wanted)
    return tuple(Step(cut=cuts[0] if cuts else None) for cuts in found)


def scaled(thin: Sequence[Step], factors: Sequence[float]) -> tuple[Step, ...]:
    """Return a thinning with a further factor on what is left of each input."""
    pairs = zip(thin, factors, strict=True)
    return tuple(step._replace(factor=step.factor * f) for step, f in pairs)


def keep_l1(deltas: Deltas, thin: Sequence[Step]) -> tuple[Step, ...]:
    """Scale what a thinning keeps of each input so that its L1 norm stays."""
    return scaled(thin, [_l1_factor(deltas, s, i) for i, s in enumerate(thin)])


def _l1_factor(deltas: Deltas, step: Step, index: int) -> float:
    """Return by what the kept entries grow so that their L1 norm is the whole one's."""
    if can_sum(deltas, step):
        full, kept = sizes(deltas, step, index)
        return full / kept if kept > 0 else 1.0
    sums = torch.zeros(2, dtype=torch.float64, device=deltas.device)
    for delta, left in left_blocks(deltas, step, index):
        sums[0] += total(delta.abs())
        sums[1] += total(left.abs())
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
