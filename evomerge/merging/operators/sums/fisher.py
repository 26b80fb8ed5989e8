"""Fisher merging (Matena and Raffel 2021, 2111.09832), with a diagonal Fisher matrix.

Where two posteriors are normal, their most likely common weights are
``sum(w_i F_i x_i) / sum(w_i F_i)``, entry by entry: an input has its way where its own
predictions depend on the entry.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evomerge.core.operators.derived import FISHER
from evomerge.errors import CandidateError
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.lazy_merge import LazyMerge
from evomerge.merging.operators.sums.linear import shares

_NOTHING = 1e-30
"""Where all that is divided by sums to less, no input says anything: the plain mean."""


def fisher(inputs: Inputs) -> Weighted:
    """Average the inputs, entry by entry, by their shares and what was measured.

    Raises:
        CandidateError: The weights sum to zero, or one is negative.
    """
    settings = inputs.settings
    weights = shares(settings, inputs.key)
    if min(weights) < 0.0:
        raise CandidateError(
            f"{inputs.key}: fisher weighs by {list(settings.numbers('weight'))}, but a "
            "mean by information needs weights of at least zero."
        )
    measured = [inputs.statistic(FISHER, i) for i in range(len(weights))]
    by_norm = settings.choice("norm") == "model"
    norms = [one.norm if by_norm else 1.0 for one in measured]
    return Weighted(
        Deltas.of(inputs),
        weights,
        tuple(one.tensor.reshape(-1) for one in measured),
        tuple(norm or 1.0 for norm in norms),
        settings.number("floor"),
        settings.number("power"),
    )


@dataclass(frozen=True, slots=True)
class Weighted(LazyMerge):
    """A mean by what was measured, decided and not carried out yet.

    Attributes:
        deltas: The inputs, without a base.
        weights: One per input, which sum to one.
        measured: One number per entry of every input, flat.
        norms: What they are divided by.
        floor: The least of them after that.
        power: Exponent on them.
    """

    deltas: Deltas
    weights: tuple[float, ...]
    measured: Sequence[torch.Tensor]
    norms: tuple[float, ...]
    floor: float
    power: float

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        self.by_steps(out, self._step_by_step)
        return False

    def _step_by_step(self, into: torch.Tensor) -> None:
        deltas, space = self.deltas, self.deltas.scratch()
        for block in deltas.blocks():
            part = into[block].zero_()
            plain, under = torch.zeros_like(part), torch.zeros_like(part)
            for index, weight in enumerate(self.weights):
                value = deltas.read(index, block, None, space)
                plain.add_(value, alpha=weight)
                informed = self.measured[index][block].to(torch.float32, copy=True)
                informed.div_(self.norms[index]).clamp_min_(self.floor)
                informed.pow_(self.power).mul_(weight)
                part.add_(value.mul_(informed))
                under.add_(informed)
            silent = under < _NOTHING
            part.div_(under.masked_fill_(silent, 1.0))
            torch.where(silent, plain, part, out=part)
