"""TIES-Merging (Yadav et al. 2023): trim, elect, merge those who agree."""

from collections.abc import Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.consensus import Rule, agree
from evomerge.merging.operators.sparsify import keep_l1, trim


def ties(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Trim each input's differences, elect a sign per entry, average who agrees."""
    assert base is not None
    deltas = Deltas(tensors, base)
    rule = Rule(
        settings.numbers("weight"),
        settings.number("lambda"),
        count=settings.choice("consensus") == "count",
        normalize=settings.flag("normalize"),
        majority=settings.choice("zero_rule") == "majority",
    )
    thin = trim(
        deltas, settings.numbers("density"), guard=settings.choice("rounding") != "int"
    )
    if settings.choice("rescale") == "l1":
        thin = keep_l1(deltas, thin)
    return agree(deltas, thin, rule)
