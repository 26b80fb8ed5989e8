"""TIES-Merging (Yadav et al. 2023): trim, elect, merge those who agree."""

from collections.abc import Sequence

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.memo import NOTHING_KEPT, Known, Memo
from evomerge.merging.operators.sums.sign_election import Election, Rule
from evomerge.merging.operators.thresholds.model_thresholds import (
    InModel,
    trim_in_model,
)
from evomerge.merging.operators.thresholds.sparsify import keep_l1, trim


def ties(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> Election:
    """Trim each input's differences, elect a sign per entry, average who agrees.

    With the scope ``model`` a tensor is trimmed together with those that the memo tells
    of; one that is merged alone is the whole model.
    """
    assert base is not None
    densities = settings.numbers("density")
    guard = settings.choice("rounding") != "int"
    shares = None
    if isinstance(memo, InModel):
        shares = [memo.share(name) for name in settings.operation.inputs]
        memo = memo.memo
    deltas = Deltas(tensors, base, known=Known(memo, settings.operation, key))
    rule = Rule(
        settings.numbers("weight"),
        settings.number("lambda"),
        count=settings.choice("consensus") == "count",
        normalize=settings.flag("normalize"),
        majority=settings.choice("zero_rule") == "majority",
    )
    if shares is None:
        thin = trim(deltas, densities, guard=guard)
    else:
        thin = trim_in_model(deltas, shares, densities, guard=guard)
    if settings.choice("rescale") == "l1":
        thin = keep_l1(deltas, thin)
    return Election(deltas, thin, rule)
