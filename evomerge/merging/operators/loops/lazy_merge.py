"""A merge that is decided and not carried out yet."""

from abc import ABC, abstractmethod
from collections.abc import Callable

import torch

from evomerge.merging.operators.loops.blocks import Deltas


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
