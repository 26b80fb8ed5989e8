"""Consensus merging with TALL masks (Wang et al. 2024, 2405.07813).

A task uses an entry of the merged difference if its own difference is not much smaller
than all the rest; what too few tasks use is dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import Part
from evomerge.merging.operators.loops.blocks import Deltas, check_finite, stacks
from evomerge.merging.operators.loops.lazy_merge import Combined, LazyMerge
from evomerge.merging.operators.loops.onepass import Rule, can_fuse, fused_use
from evomerge.merging.operators.loops.thinning import Thin
from evomerge.merging.operators.sums.ties import merged_blocks
from evomerge.merging.operators.thresholds.sparsify import trim


def consensus(inputs: Inputs) -> Combined | Used:
    """Add the entries of the merged difference that at least ``k`` tasks use."""
    settings = inputs.settings
    deltas = Deltas.of(inputs)
    if settings.choice("source") == "ties":
        thin = trim(deltas, settings.numbers("density"))
        return Used(deltas, thin, settings, inputs.key)
    return _of_sum(settings, deltas, inputs.key)


def _of_sum(settings: Settings, deltas: Deltas, key: str) -> Combined:
    """Drop entries of the plain sum."""
    scale = settings.number("lambda")
    share, least = settings.number("lambda_t"), settings.number("k")

    def merge(read: list[torch.Tensor]) -> torch.Tensor:
        merged = read[0].clone()
        for other in read[1:]:
            merged.add_(other)
        return merged.mul_(_enough(settings, merged, read)).mul_(scale)

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import consensus

        use = (np.float32(scale), np.float32(share), np.float32(least))
        return int(consensus(part, use))

    return Combined(deltas, 1.0, merge, one_pass, key)


def used(settings: Settings, deltas: Deltas, key: str) -> Thin:
    """Keep the entries, the same of every input, that enough tasks use.

    Args:
        settings: Read for ``lambda_t`` and ``k``.
        deltas: What to thin; their plain sum is the merged difference.
        key: Name of the tensor, for messages.
    """
    return _Use(settings, deltas, key)


class _Use:
    """Zeroes what too few tasks use; counts once for all inputs of a block."""

    def __init__(self, settings: Settings, deltas: Deltas, key: str) -> None:
        self._settings = settings
        self._deltas = deltas
        self._key = key
        self._spaces = [deltas.scratch() for _ in range(len(deltas))]
        self._kept = deltas.scratch()
        self._block = slice(0, 0)

    def __call__(self, index: int, block: slice, delta: torch.Tensor) -> None:
        if block != self._block:
            deltas, base = self._deltas, self._deltas.base(block)
            spaces = enumerate(self._spaces)
            read = [deltas.read(i, block, base, space) for i, space in spaces]
            check_finite(read, self._key)
            merged = read[0].clone()
            for other in read[1:]:
                merged.add_(other)
            self._kept[: len(delta)] = _enough(self._settings, merged, read)
            self._block = block
        delta.mul_(self._kept[: len(delta)])


@dataclass(frozen=True, slots=True)
class Used(LazyMerge):
    """What TIES merges where enough tasks use it, decided and not carried out yet.

    Attributes:
        deltas: What to merge.
        thin: What each input keeps.
        settings: Read for ``lambda``, ``lambda_t`` and ``k``.
        key: Name of the tensor, for messages.
    """

    deltas: Deltas
    thin: Thin
    settings: Settings
    key: str

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        number = self.settings.number
        use = (number("lambda"), number("lambda_t"), number("k"))
        if can_fuse(self.deltas, self.thin, out) and fused_use(
            self.deltas, self.thin, use, out
        ):
            return True
        self.by_steps(out, self._step_by_step)
        return False

    def _step_by_step(self, into: torch.Tensor) -> None:
        scale = self.settings.number("lambda")
        rule = Rule((1.0,) * len(self.deltas), 1.0)
        merged = merged_blocks(self.deltas, self.thin, rule, into)
        stacked = zip(merged, stacks(self.deltas), strict=True)
        for (_, base, part), (_, _, read) in stacked:
            check_finite(read, self.key)
            part.mul_(_enough(self.settings, part, read)).mul_(scale)
            if base is not None:
                part.add_(base)


def _enough(
    settings: Settings, merged: torch.Tensor, read: Sequence[torch.Tensor]
) -> torch.Tensor:
    """Tell which entries of a merged block at least ``k`` tasks use.

    Overwrites the tasks' differences.
    """
    share, least = settings.number("lambda_t"), settings.number("k")
    count = torch.zeros_like(merged)
    for delta in read:
        rest = torch.sub(merged, delta).abs_().mul_(share)
        count.add_(delta.abs_() > rest)
    return count >= least
