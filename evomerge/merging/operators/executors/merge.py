"""Merges that are decided and not carried out yet, and who carries them out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch

from evomerge.merging.form import Ballot, Form, LargestOf, Signs
from evomerge.merging.operators.executors import processor, steps
from evomerge.merging.operators.executors.accelerator import ACCELERATOR
from evomerge.merging.operators.loops.blocks import Deltas


class Executor(NamedTuple):
    """One that carries forms out in one pass.

    Attributes:
        can: Whether it can, for inputs, a form and a result, and is worth it.
        write: Writes the result of inputs, by a form and the tensor's name; returns
            whether every number is known to be finite. If not, single steps tell.
    """

    can: Callable[[Deltas, Form, torch.Tensor], bool]
    write: Callable[[Deltas, Form, str, torch.Tensor], bool]


EXECUTORS = (
    Executor(processor.can, processor.write),
    Executor(ACCELERATOR.can, ACCELERATOR.write),
)
"""The first one that can carries a form out; single steps if none can."""


_EXACT = 1 << 20
"""So many signs are added up without rounding."""


@dataclass(frozen=True, slots=True)
class LazyMerge:
    """What it takes to write a merge anywhere.

    Attributes:
        deltas: What is merged.
        form: How.
        key: Name of the tensor, for messages.
    """

    deltas: Deltas
    form: Form
    key: str

    def into(self, out: torch.Tensor) -> bool:
        """Write the result, rounded once to the type of ``out``.

        Returns:
            Whether every number written is known to be finite.

        Raises:
            CandidateError: An input is not finite where differences are chosen among.
        """
        votes = getattr(self.form.reduce, "votes", None)
        if votes is not None and votes.plus is None:
            return self._decided().into(out)
        for executor in EXECUTORS:
            if executor.can(self.deltas, self.form, out):
                if executor.write(self.deltas, self.form, self.key, out):
                    return True
                break
        # Also what was found not finite: torch keeps what is no number one.
        whole = out
        if out.dtype != torch.float32 or not out.is_contiguous():
            whole = self.deltas.fresh()
        steps.write(self.deltas, self.form, self.key, whole.view(-1))
        if whole is not out:
            out.copy_(whole)
        return False

    def fresh(self) -> torch.Tensor:
        """Return the result as a new fp32 tensor."""
        out = self.deltas.fresh()
        self.into(out)
        return out

    def _decided(self) -> LazyMerge:
        """Return the merge with draws given to the sign that most entries got."""
        reduce = self.form.reduce
        assert isinstance(reduce, Ballot | LargestOf | Signs)
        signs = Signs(reduce.weights, reduce.votes._replace(plus=True))
        form = self.form._replace(reduce=signs, use=None, scale=1.0, bare=True)
        deltas = self.deltas
        found = torch.empty(deltas.shape, dtype=torch.bfloat16, device=deltas.device)
        replace(self, form=form).into(found)
        parts = found.view(-1).split(_EXACT)
        majority = sum(float(part.sum(dtype=torch.float32)) for part in parts)
        votes = reduce.votes._replace(plus=math.isnan(majority) or majority >= 0)
        return replace(
            self, form=self.form._replace(reduce=reduce._replace(votes=votes))
        )
