"""The loop of operators that look at all inputs' differences in an entry at once."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

from evomerge.errors import CandidateError
from evomerge.merging.operators.loops.arrays import Arrays, Part
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.lazy_merge import LazyMerge
from evomerge.merging.operators.loops.onepass import can_fuse

Merge = Callable[[list[torch.Tensor]], torch.Tensor]
"""A block of every input's difference, free to change, to the merged difference."""


@dataclass(frozen=True, slots=True)
class Combined(LazyMerge):
    """``base + scale * merge(differences)``, decided and not carried out yet.

    Attributes:
        deltas: What is merged, from a base.
        scale: On the merged difference.
        merge: A block of every input's difference to the merged one.
        one_pass: The same for a part of all tensors, in compiled code, scale and base
            included; returns the bits of the largest size it wrote, or more if a
            difference is not finite.
        key: Name of the tensor, for messages.
    """

    deltas: Deltas
    scale: float
    merge: Merge
    one_pass: Callable[[Part], int]
    key: str

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        if not can_fuse(self.deltas, None, out):
            out.copy_(combine(self.deltas, self.scale, self.merge, self.key))
            return False
        arrays = Arrays.of(self.deltas, out)
        if arrays.are_finite(lambda part, _: self.one_pass(part)):
            return True
        for _, _, read in stacks(self.deltas):
            check_finite(read, self.key)
        return False


def stacks(
    deltas: Deltas,
) -> Iterator[tuple[slice, torch.Tensor | None, list[torch.Tensor]]]:
    """Read a block of every input at a time.

    Yields:
        The block, the base's values, and every input's difference, which may be changed
        and is overwritten by the next step.
    """
    spaces = [deltas.scratch() for _ in range(len(deltas))]
    for block in deltas.blocks():
        base = deltas.base(block)
        read = [deltas.read(i, block, base, space) for i, space in enumerate(spaces)]
        yield block, base, read


def combine(deltas: Deltas, scale: float, merge: Merge, key: str) -> torch.Tensor:
    """Return ``base + scale * merge(differences)``, fresh, fp32.

    Raises:
        CandidateError: An input is not finite. Whoever chooses among differences would
            pass over it; a sum would show it.
    """
    out = deltas.fresh()
    into = out.view(-1)
    for block, base, read in stacks(deltas):
        check_finite(read, key)
        part = torch.mul(merge(read), scale, out=into[block])
        if base is not None:
            part.add_(base)
    return out


def check_finite(read: list[torch.Tensor], key: str) -> None:
    """Refuse a block of differences that are not all numbers.

    Raises:
        CandidateError: One is not; the message names the tensor.
    """
    for place, delta in enumerate(read):
        # One pass for good blocks: a sum shows what is not finite in any part of it.
        if not torch.isfinite(delta.sum()) and not torch.isfinite(delta).all():
            raise CandidateError(
                f"{key}: the difference of input {place + 1} from the base is not "
                "finite, so differences cannot be chosen by size. Leave that input "
                "out, or repair it."
            )
