"""Mergekit's methods of one model and a base: NearSwap and Arcee Fusion."""

from dataclasses import dataclass

import numpy as np
import torch

from evomerge.core.operators.derived import IMPORTANCE
from evomerge.merging.constants import NO_STEP
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import Arrays, Part
from evomerge.merging.operators.loops.blocks import (
    Deltas,
    check_finite,
    row_totals,
    stacks,
)
from evomerge.merging.operators.loops.lazy_merge import Combined, LazyMerge
from evomerge.merging.operators.loops.onepass import can_fuse
from evomerge.merging.operators.loops.order_statistics import (
    Score,
    in_blocks,
    row_length,
    values_at,
)

_FLOOR = 1e-8
"""Added to every probability, so that logarithms exist."""


def nearswap(inputs: Inputs) -> Combined:
    """Move every entry of the base towards the input, by ``t`` at most."""
    t = inputs.settings.number("t")

    def merge(read: list[torch.Tensor]) -> torch.Tensor:
        share = read[0].abs().clamp_min_(NO_STEP).reciprocal_().mul_(t)
        return read[0].mul_(share.clamp_max_(1.0))

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import nearswap

        return int(nearswap(part, np.float32(t)))

    return Combined(Deltas.of(inputs), 1.0, merge, one_pass, inputs.key)


def arcee_fusion(inputs: Inputs) -> LazyMerge:
    """Take over differences whose importance is an outlier, leave the rest.

    Importance is the size of a difference times the divergence between the two models'
    rows, seen as logits; an outlier is ``kappa`` quartile ranges above the median.

    Raises:
        CandidateError: An input is not finite.
    """
    deltas = Deltas.of(inputs)
    if deltas.n == 0:
        return _Outstanding(deltas, torch.empty(0), 0.0)
    divergences, quartiles = deltas.recall(
        IMPORTANCE, (0,), lambda: _look(deltas, inputs)
    )
    low, middle, high = quartiles.tolist()
    threshold = middle + inputs.settings.number("kappa") * (high - low)
    return _Outstanding(deltas, divergences, threshold)


@dataclass(frozen=True, slots=True)
class _Outstanding(LazyMerge):
    """The base with the differences of at least some importance.

    Attributes:
        divergences: fp32, one per row.
        threshold: The least importance that is taken over.
    """

    deltas: Deltas
    divergences: torch.Tensor
    threshold: float

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        if not can_fuse(self.deltas, None, out):
            self.by_steps(out, self._step_by_step)
            return False
        from evomerge.merging.kernels.elementwise import take_outstanding

        divergences, threshold = self.divergences.numpy(), np.float32(self.threshold)
        row = np.int64(self.deltas.n // len(divergences))

        def merge(part: Part, start: int) -> int:
            return int(
                take_outstanding(part, np.int64(start), divergences, row, threshold)
            )

        return Arrays.of(self.deltas, out).are_finite(merge)

    def _step_by_step(self, into: torch.Tensor) -> None:
        if self.deltas.n == 0:
            return
        importance = _importance(self.deltas, self.divergences)
        for block, start, (delta,) in stacks(self.deltas):
            assert start is not None
            stands_out = importance(block) >= self.threshold
            torch.add(start, delta.mul_(stands_out), out=into[block])


def _look(deltas: Deltas, inputs: Inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the divergence of every row, and the quartiles of importance: fp32."""
    divergences = _divergences(inputs)
    places = [int(share * (deltas.n - 1)) for share in (0.25, 0.5, 0.75)]
    scores = in_blocks(deltas, _importance(deltas, divergences))
    # Rounding leaves the divergence of equal rows a little below zero at times.
    quartiles = values_at(deltas, scores, places, signed=True)
    return divergences, torch.tensor(quartiles)


def _divergences(inputs: Inputs) -> torch.Tensor:
    """Return how far the softmax of every row is from the base's: ``(rows,)``, fp32."""
    row = row_length(inputs.shape)
    base = inputs.base
    assert base is not None
    found = []
    for _, _, read in stacks(Deltas([*inputs.tensors, base], None, multiple_of=row)):
        check_finite([read[0] - read[1]], inputs.key)
        p, q = (torch.softmax(x.view(-1, row), dim=1).add_(_FLOOR) for x in read)
        terms = p.div(q).log_().mul_(p)
        found.append(row_totals(terms).to(torch.float32))
    return torch.cat(found)


def _importance(deltas: Deltas, divergences: torch.Tensor) -> Score:
    """Score an entry by the size of its difference times its row's divergence."""
    space = deltas.scratch()
    row = deltas.n // len(divergences)

    def score(block: slice) -> torch.Tensor:
        sizes = deltas.read(0, block, deltas.base(block), space).abs_()
        first, last = block.start // row, -(-block.stop // row)
        spread = divergences[first:last].repeat_interleave(row)
        skipped = block.start - first * row
        return sizes.mul_(spread[skipped : skipped + len(sizes)])

    return score
