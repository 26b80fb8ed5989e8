"""Merges that are decided and not carried out yet."""

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import torch

from evomerge.merging.operators.loops.arrays import Arrays, Part
from evomerge.merging.operators.loops.blocks import Deltas, check_finite, stacks
from evomerge.merging.operators.loops.onepass import can_fuse


class LazyMerge(ABC):
    """What it takes to write a merge anywhere.

    Attributes:
        deltas: What is merged.
    """

    __slots__ = ()
    deltas: Deltas

    @abstractmethod
    def into(self, out: torch.Tensor) -> bool:
        """Write the result, rounded once to the type of ``out``.

        Returns:
            Whether every number written is known to be finite.

        Raises:
            CandidateError: An input is not finite where differences are chosen among.
        """

    def fresh(self) -> torch.Tensor:
        """Return the result as a new fp32 tensor."""
        out = self.deltas.fresh()
        self.into(out)
        return out

    def by_steps(
        self, out: torch.Tensor, steps: Callable[[torch.Tensor], None]
    ) -> None:
        """Let single steps write the result, flat and fp32; it is rounded once."""
        whole = out
        if out.dtype != torch.float32 or not out.is_contiguous():
            whole = self.deltas.fresh()
        steps(whole.view(-1))
        if whole is not out:
            out.copy_(whole)


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
            self.by_steps(out, self._step_by_step)
            return False
        arrays = Arrays.of(self.deltas, out)
        if arrays.are_finite(lambda part, _: self.one_pass(part)):
            return True
        for _, _, read in stacks(self.deltas):
            check_finite(read, self.key)
        return False

    def _step_by_step(self, into: torch.Tensor) -> None:
        for block, base, read in stacks(self.deltas):
            # Whoever chooses among differences would pass over it; a sum would show it.
            check_finite(read, self.key)
            part = torch.mul(self.merge(read), self.scale, out=into[block])
            if base is not None:
                part.add_(base)
