"""Consensus merging with TALL masks (Wang et al. 2024, 2405.07813).

A task uses an entry of the merged difference if its own difference is not much smaller
than all the rest; what too few tasks use is dropped.
"""

from collections.abc import Iterator, Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.combine import check_finite, stacks
from evomerge.merging.operators.consensus import Rule, merged_blocks
from evomerge.merging.operators.sparsify import trim


def consensus(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Add the entries of the merged difference that at least ``k`` tasks use."""
    deltas = Deltas(tensors, base)
    out = deltas.fresh()
    share, least = settings.number("lambda_t"), settings.number("k")
    merged = _merge(settings, deltas, out.view(-1))
    reads = stacks(deltas)
    for part, (_, start, read) in zip(merged, reads, strict=True):
        check_finite(read, key)
        count = torch.zeros_like(part)
        for delta in read:
            rest = torch.sub(part, delta).abs_().mul_(share)
            count.add_(delta.abs_() > rest)
        part.mul_(count >= least).mul_(settings.number("lambda"))
        if start is not None:
            part.add_(start)
    return out


def _merge(
    settings: Settings, deltas: Deltas, into: torch.Tensor
) -> Iterator[torch.Tensor]:
    """Merge the differences a block at a time, by sum or by TIES; yield the blocks."""
    weights = (1.0,) * len(deltas)
    if settings.choice("source") == "ties":
        thin = trim(deltas, settings.numbers("density"))
        for _, _, part in merged_blocks(deltas, thin, Rule(weights, 1.0), into):
            yield part
        return
    for block, _, read in stacks(deltas):
        part = into[block].copy_(read[0])
        for delta in read[1:]:
            part.add_(delta)
        yield part
