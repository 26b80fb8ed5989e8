"""DELLA (Deep et al. 2024, 2406.11617): the larger a difference, the likelier it stays.

Per row of a matrix, keep probabilities run from density - epsilon for the smallest
difference to density + epsilon for the largest, evenly by rank.
"""

from __future__ import annotations

import torch

from evomerge.core.operators.derived import ROW_ENDS
from evomerge.core.recipes.settings import Settings, spreads
from evomerge.merging.form import PerEntry, PerRow, RankedCoin, SizeCoin, Step
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import stream_key
from evomerge.merging.operators.loops.order_statistics import (
    row_length,
    row_ranks,
    whole_ranks,
)
from evomerge.merging.operators.sums.linear import summed
from evomerge.merging.operators.sums.ties import elected
from evomerge.merging.operators.thresholds.sparsify import keep_l1


def della(inputs: Inputs) -> LazyMerge:
    """Elect signs among what is left of the differences and merge those who agree."""
    settings, deltas = inputs.settings, _by_rows(inputs)
    thin = prune(settings, deltas, inputs.key)
    return LazyMerge(deltas, elected(settings, thin), inputs.key)


def della_linear(inputs: Inputs) -> LazyMerge:
    """Add the weighted sum of what is left of the differences to the base."""
    settings, deltas = inputs.settings, _by_rows(inputs)
    thin = prune(settings, deltas, inputs.key)
    return LazyMerge(deltas, summed(settings, thin), inputs.key)


def _by_rows(inputs: Inputs) -> Deltas:
    whole = inputs.settings.choice("rank_by") == "tensor_rank"
    return Deltas.of(inputs, multiple_of=1 if whole else row_length(inputs.shape))


def prune(settings: Settings, deltas: Deltas, key: str) -> tuple[Step, ...]:
    """Return the random thinning that the settings ask for.

    Args:
        settings: Read for ``density``, ``epsilon`` or ``eps_frac``, ``rank_by``,
            ``rescale`` and ``seed``.
        deltas: What to thin; its blocks are whole rows, unless all entries are ranked.
        key: Name of the tensor.
    """
    densities = settings.numbers("density")
    coins = [
        None if density >= 1.0 else coin(settings, deltas, key, index)
        for index, density in enumerate(densities)
    ]
    thin = tuple(Step(coin=one) for one in coins)
    return keep_l1(deltas, thin) if settings.choice("rescale") == "l1" else thin


def coin(
    settings: Settings, deltas: Deltas, key: str, index: int
) -> RankedCoin | SizeCoin:
    """Return what an input's entries are kept by; see :func:`prune`."""
    operation = settings.operation
    name = operation.inputs[index]
    stream = stream_key(settings.shared["seed"], operation.operator, name, key)
    density, spread = settings.numbers("density")[index], spreads(settings)[index]
    inverse = settings.choice("rescale") == "inverse"
    least, width = density - spread, 2.0 * spread
    whole = settings.choice("rank_by") == "tensor_rank"
    row = deltas.n if whole else row_length(deltas.shape)
    if row < 2 or not deltas.n:
        alike = torch.zeros(deltas.n, dtype=torch.int32, device=deltas.device)
        middle = least + width / 2
        return RankedCoin(stream, PerEntry(alike), 1, 0.0, middle, inverse)
    if settings.choice("rank_by") == "row_minmax":
        ends = _row_ends(deltas, index, row)
        return SizeCoin(stream, *ends, width, least, inverse)
    ranks = whole_ranks(deltas, index) if whole else row_ranks(deltas, index, row)
    known = None if ranks is None else PerEntry(ranks)
    return RankedCoin(stream, known, row, width / (row - 1), least, inverse)


def _row_ends(deltas: Deltas, index: int, row: int) -> tuple[PerRow, PerRow, PerRow]:
    """Return each row's smallest size, its width, and where equal sizes lie."""

    def compute() -> torch.Tensor:
        found, space = [], deltas.scratch()
        for block in deltas.blocks():
            delta = deltas.read(index, block, deltas.base(block), space)
            found.append(torch.stack(torch.aminmax(delta.abs_().view(-1, row), dim=1)))
        return torch.cat(found, dim=1)

    smallest, largest = deltas.recall(ROW_ENDS, (index,), compute)
    width = largest.to(torch.float64) - smallest.to(torch.float64)
    alike = width == 0.0
    share = alike.to(torch.float32).mul_(0.5)
    return (
        PerRow(smallest, row),
        PerRow(width.masked_fill_(alike, 1.0), row),
        PerRow(share, row),
    )
