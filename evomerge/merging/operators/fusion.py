"""Arcee Fusion (mergekit): take over only the differences that stand out."""

from collections.abc import Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas, row_totals
from evomerge.merging.operators.combine import check_finite, stacks
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo
from evomerge.merging.operators.order import Score, in_blocks, values_at
from evomerge.merging.operators.rows import row_length

_FLOOR = 1e-8
"""Added to every probability, so that logarithms exist."""


def arcee_fusion(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Take over differences whose importance is an outlier, leave the rest.

    Importance is the size of a difference times the divergence between the two models'
    rows, seen as logits; an outlier is ``kappa`` quartile ranges above the median.
    """
    assert base is not None
    deltas = Deltas(tensors, base)
    if deltas.n == 0:
        return deltas.fresh()
    importance = _importance(deltas, _divergences(tensors[0], base, key))
    places = [int(share * (deltas.n - 1)) for share in (0.25, 0.5, 0.75)]
    scores = in_blocks(deltas, importance)
    # Rounding leaves the divergence of equal rows a little below zero at times.
    low, middle, high = values_at(deltas, scores, places, signed=True)
    threshold = middle + settings.number("kappa") * (high - low)
    out = deltas.fresh()
    into = out.view(-1)
    for block, start, (delta,) in stacks(deltas):
        assert start is not None
        stands_out = importance(block) >= threshold
        torch.add(start, delta.mul_(stands_out), out=into[block])
    return out


def _divergences(tensor: torch.Tensor, base: torch.Tensor, key: str) -> torch.Tensor:
    """Return how far the softmax of every row is from the base's: ``(rows,)``, fp32."""
    row = row_length(base.shape)
    found = []
    for _, _, read in stacks(Deltas([tensor, base], None, multiple_of=row)):
        check_finite([read[0] - read[1]], key)
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
