"""Mergekit's methods of one model and a base: NearSwap and Arcee Fusion."""

import torch

from evomerge.core.operators.derived import IMPORTANCE
from evomerge.merging.form import Form, Outstanding, PerRow, Total, Towards
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.executors.steps import Block
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import (
    Deltas,
    check_finite,
    row_totals,
    stacks,
)
from evomerge.merging.operators.loops.order_statistics import (
    Score,
    in_blocks,
    row_length,
    values_at,
)

_FLOOR = 1e-8
"""Added to every probability, so that logarithms exist."""


def nearswap(inputs: Inputs) -> LazyMerge:
    """Move every entry of the base towards the input, by ``t`` at most."""
    form = Form(Towards(inputs.settings.number("t")), checked=True)
    return LazyMerge(Deltas.of(inputs), form, inputs.key)


def arcee_fusion(inputs: Inputs) -> LazyMerge:
    """Take over differences whose importance is an outlier, leave the rest.

    Importance is the size of a difference times the divergence between the two models'
    rows, seen as logits; an outlier is ``kappa`` quartile ranges above the median.

    Raises:
        CandidateError: An input is not finite.
    """
    deltas = Deltas.of(inputs)
    total = Form(Total((1.0,)))
    if deltas.n == 0:
        return LazyMerge(deltas, total, inputs.key)
    divergences, quartiles = deltas.recall(
        IMPORTANCE, (0,), lambda: _look(deltas, inputs)
    )
    low, middle, high = quartiles.tolist()
    threshold = middle + inputs.settings.number("kappa") * (high - low)
    factors = PerRow(divergences, deltas.n // len(divergences))
    among = Outstanding(factors, threshold)
    return LazyMerge(deltas, total._replace(among=among), inputs.key)


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
    space, place = deltas.scratch(), Block(deltas)
    factors = PerRow(divergences, deltas.n // len(divergences))

    def score(block: slice) -> torch.Tensor:
        sizes = deltas.read(0, block, deltas.base(block), space).abs_()
        return sizes.mul_(place.at(block).per_row(factors))

    return score
