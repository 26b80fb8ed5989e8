"""MagMax (Marczak et al. 2024, 2407.06322): per entry, the largest difference."""

from collections.abc import Sequence
from functools import partial

import numpy as np
import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.loops.arrays import Part
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.combine import Combined
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo


def magmax(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> Combined:
    """Take from the input whose difference is largest; of equals, first or last."""
    last = settings.choice("draw") == "last"
    scale = settings.number("lambda")

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import magmax

        return int(magmax(part, np.float32(scale), last or None))

    merge = partial(largest, last=last)
    return Combined(Deltas(tensors, base), scale, merge, one_pass, key)


def largest(read: Sequence[torch.Tensor], *, last: bool = False) -> torch.Tensor:
    """Return the largest difference of every entry, in the place of the first input's.

    Args:
        read: A block of every input's differences.
        last: Take the last of equals instead of the first.
    """
    best = read[0]
    for delta in read[1:]:
        sizes, mine = delta.abs(), best.abs()
        larger = sizes >= mine if last else sizes > mine
        torch.where(larger, delta, best, out=best)
    return best
