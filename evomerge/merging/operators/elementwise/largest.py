"""The largest difference of every entry: MagMax, and EMR-Merging of an elected sign.

MagMax: Marczak et al. 2024, 2407.06322. EMR (elect, mask, rescale): Huang et al. 2024,
2405.17461; one unified difference serves all tasks, and a task's own model is told from
it by one bit per entry and one factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import Part
from evomerge.merging.operators.loops.blocks import Deltas, stacks, total
from evomerge.merging.operators.loops.lazy_merge import Combined


def magmax(inputs: Inputs) -> Combined:
    """Take from the input whose difference is largest; of equals, first or last."""
    last = inputs.settings.choice("draw") == "last"
    scale = inputs.settings.number("lambda")

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import magmax

        return int(magmax(part, np.float32(scale), last or None))

    merge = partial(largest, last=last)
    return Combined(Deltas.of(inputs), scale, merge, one_pass, inputs.key)


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


def emr(inputs: Inputs) -> Combined:
    """Add the unified difference to the base."""
    scale = inputs.settings.number("lambda")

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import emr

        return int(emr(part, np.float32(scale)))

    return Combined(Deltas.of(inputs), scale, _unify, one_pass, inputs.key)


@dataclass(frozen=True, slots=True)
class Task:
    """What tells one task's model from the unified difference, for one tensor.

    Attributes:
        mask: The entries in which it has the elected sign, of the tensor's shape.
        own: Sum of the sizes of the task's own differences.
        left: Sum of the sizes of what its mask leaves of the unified difference.
    """

    mask: torch.Tensor
    own: float
    left: float


def tasks(tensors: Sequence[torch.Tensor], base: torch.Tensor) -> tuple[Task, ...]:
    """Return each input's mask and sums for one tensor.

    A task's factor is :func:`factor` of its sums over all tensors of the model; its
    tensor is ``base + factor * mask * unified``.

    Args:
        tensors: The inputs.
        base: Of the same shape.
    """
    deltas = Deltas(tensors, base)
    n = len(tensors)
    masks = torch.empty(n, deltas.n, dtype=torch.bool, device=deltas.device)
    sums = torch.zeros(n, 2, dtype=torch.float64, device=deltas.device)
    for block, _, read in stacks(deltas):
        unified = _unify([delta.clone() for delta in read])
        for index, delta in enumerate(read):
            mask = torch.gt(delta * unified, 0.0, out=masks[index, block])
            sums[index, 0] += total(delta.abs())
            sums[index, 1] += total((unified * mask).abs_())
    return tuple(
        Task(mask.view(base.shape), own, left)
        for mask, (own, left) in zip(masks, sums.tolist(), strict=True)
    )


def factor(own: float, left: float) -> float:
    """Return by what a task's masked part grows to the size of its own differences."""
    return own / left if left > 0.0 else 1.0


def _unify(read: list[torch.Tensor]) -> torch.Tensor:
    """Return the largest difference that has the elected sign, per entry."""
    tally = read[0].clone()
    for delta in read[1:]:
        tally.add_(delta)
    return largest_of_sign(read, (tally > 0.0).to(torch.float32).mul_(2.0).sub_(1.0))


def largest_of_sign(read: Sequence[torch.Tensor], sign: torch.Tensor) -> torch.Tensor:
    """Return the largest difference of a sign per entry, zero where none has it.

    Args:
        read: A block of every input's differences, overwritten.
        sign: +1 or -1 for every entry.
    """
    best = torch.zeros_like(sign)
    for delta in read:
        torch.maximum(best, delta.mul_(sign), out=best)
    return best.mul_(sign)
