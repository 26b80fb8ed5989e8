"""The largest difference of every entry: MagMax, and EMR-Merging of an elected sign.

MagMax: Marczak et al. 2024, 2407.06322. EMR (elect, mask, rescale): Huang et al. 2024,
2405.17461; one unified difference serves all tasks, and a task's own model is told from
it by one bit per entry and one factor.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evomerge.merging.form import Form, Largest, LargestOf, Votes
from evomerge.merging.operators.executors.formulas import reduced
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.executors.steps import Block
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas, stacks, total


def magmax(inputs: Inputs) -> LazyMerge:
    """Take from the input whose difference is largest; of equals, first or last."""
    alike = (1.0,) * len(inputs.tensors)
    how = Largest(alike, last=inputs.settings.choice("draw") == "last")
    return _chosen(inputs, how)


def emr(inputs: Inputs) -> LazyMerge:
    """Add the unified difference to the base."""
    return _chosen(inputs, _unified(len(inputs.tensors)))


def _chosen(inputs: Inputs, how: Largest | LargestOf) -> LazyMerge:
    form = Form(how, scale=inputs.settings.number("lambda"), checked=True)
    return LazyMerge(Deltas.of(inputs), form, inputs.key)


def _unified(n: int) -> LargestOf:
    """Return the largest of the differences that have the sign of their sum."""
    return LargestOf((1.0,) * n, Votes(plus=False))


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
    place = Block(deltas)
    for block, _, read in stacks(deltas):
        unified = reduced(_unified(n), read, place.at(block))
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
