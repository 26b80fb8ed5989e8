"""Thinning of differences by their size, and what it does to their norm."""

import math
from collections.abc import Sequence

import torch

from evomerge.merging.operators.blocks import Deltas, total
from evomerge.merging.operators.linear import Thin
from evomerge.merging.operators.order import Cut, Score, cuts, keep_block, span


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


def magnitude(deltas: Deltas, index: int) -> Score:
    """Score the entries of one input by the size of its difference."""
    space = deltas.scratch(span(deltas))

    def score(block: slice) -> torch.Tensor:
        return deltas.read(index, block, deltas.base(block), space).abs_()

    return score


def magnitude_cut(deltas: Deltas, index: int, keep: int) -> Cut:
    """Find the cut that keeps exactly the ``keep`` largest differences of an input."""
    return cuts(deltas, magnitude(deltas, index), (keep,))[0]


def trim(deltas: Deltas, densities: Sequence[float], *, guard: bool = True) -> Thin:
    """Keep the largest differences of each input, the given part of them."""
    counts = [keep_count(density, deltas.n, guard=guard) for density in densities]
    found = [magnitude_cut(deltas, i, keep) for i, keep in enumerate(counts)]
    space = deltas.scratch()

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        if counts[index] < deltas.n:
            cut_block(found[index], block, delta, space)

    return thin


def cut_block(at: Cut, block: slice, delta: torch.Tensor, space: torch.Tensor) -> None:
    """Zero, in place, what a cut by size drops from a block of differences.

    Args:
        at: Where to cut.
        block: Where the block stands in the flat tensor.
        delta: The block's differences, fp32, changed in place.
        space: fp32, at least as long, overwritten.
    """
    sizes = torch.abs(delta, out=space[: len(delta)])
    delta.mul_(keep_block(at, block, sizes, sizes))


def keep_l1(deltas: Deltas, thin: Thin) -> Thin:
    """Scale what a thinning keeps of each input so that its L1 norm stays."""
    factors = [_l1_factor(deltas, thin, index) for index in range(len(deltas))]

    def scaled(index: int, block: slice, delta: torch.Tensor) -> None:
        thin(index, block, delta)
        if factors[index] != 1.0:
            delta.mul_(factors[index])

    return scaled


def _l1_factor(deltas: Deltas, thin: Thin, index: int) -> float:
    """Return by what the kept entries grow so that their L1 norm is the whole one's."""
    sums = torch.zeros(2, dtype=torch.float64, device=deltas.device)
    left, right = deltas.scratch(), deltas.scratch()
    for block in deltas.blocks():
        delta = deltas.read(index, block, deltas.base(block), left)
        sums[0] += total(torch.abs(delta, out=right[: len(delta)]))
        thin(index, block, delta)
        sums[1] += total(delta.abs_())
    full, kept = sums.tolist()
    return full / kept if kept > 0 else 1.0
