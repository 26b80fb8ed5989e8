"""NearSwap (mergekit): take over what is already near."""

from collections.abc import Sequence

import numpy as np
import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.loops.arrays import Part
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.combine import Combined
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo

_NO_STEP = 1e-6
"""A difference below this counts as this: nothing is divided by zero."""


def nearswap(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> Combined:
    """Move every entry of the base towards the input, by ``t`` at most."""
    t = settings.number("t")

    def merge(read: list[torch.Tensor]) -> torch.Tensor:
        share = read[0].abs().clamp_min_(_NO_STEP).reciprocal_().mul_(t)
        return read[0].mul_(share.clamp_max_(1.0))

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import nearswap

        return int(nearswap(part, np.float32(t)))

    return Combined(Deltas(tensors, base), 1.0, merge, one_pass, key)
