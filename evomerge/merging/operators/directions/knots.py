"""Other methods in shared bases: KnOTS (Stoica et al. 2024) and core space (2025)."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch

from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import Settings, resolve
from evomerge.merging.operators.directions.bases import Find, core, share
from evomerge.merging.operators.directions.iso import iso_c
from evomerge.merging.operators.directions.singular_vectors import (
    Matrices,
    Merge,
    by_matrix,
    in_fp32,
    is_matrix,
)
from evomerge.merging.operators.directions.tsv import tsv
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo
from evomerge.merging.operators.sums.dare import dare_ties
from evomerge.merging.operators.sums.linear import task_arithmetic, whole_factors
from evomerge.merging.operators.sums.sign_election import Election
from evomerge.merging.operators.sums.ties import ties

_INNER: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sum": ("task_arithmetic", ("weight", "normalize")),
    "ties": ("ties", ("weight", "normalize", "density", "consensus")),
    "dare_ties": ("dare_ties", ("weight", "normalize", "density", "rescale", "seed")),
    "tsv": ("tsv", ("weight", "rank_frac")),
    "iso": ("iso_c", ("weight",)),
}
"""Inner method to its operator and which of its knobs are ours; lambda comes last."""
_ARITHMETIC: Mapping[str, Callable[..., torch.Tensor | Election]] = {
    "ties": ties,
    "dare_ties": dare_ties,
    "tsv": tsv,
    "iso_c": iso_c,
}


def knots(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Merge the differences by another method, in a basis of one side.

    Vectors get the weighted sum of the differences.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    find = partial(share, turned=settings.choice("join") == "out")
    return _in_bases(settings, tensors, base, key, memo, find)


def core_space(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Merge the differences by another method, in bases of both sides.

    Vectors get the weighted sum of the differences.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    return _in_bases(settings, tensors, base, key, memo, core)


def _in_bases(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo,
    find: Find,
) -> torch.Tensor:
    assert base is not None
    if not is_matrix(base):
        return task_arithmetic(settings, tensors, base, key).fresh()
    merge = within(find, partial(_merge_parts, inner_settings(settings)))
    return by_matrix(settings, tensors, base, key, merge, memo)


def within(find: Find, merge_parts: Merge) -> Merge:
    """Return the merge that works on what the differences are in shared bases.

    Args:
        find: Finds the bases.
        merge_parts: Merges the parts.
    """

    def merge(matrices: Matrices) -> torch.Tensor:
        shared = find(matrices)
        if not shared.parts[0].numel():
            return torch.zeros_like(matrices.deltas[0])
        return shared.back(merge_parts(matrices.of(shared.parts)))

    return merge


def inner_settings(settings: Settings) -> Settings:
    """Return the inner method with the knobs that there are for it."""
    operation = settings.operation
    name, taken = _INNER[settings.choice("inner")]
    return resolve(
        Operation(
            name,
            operation.inputs,
            operation.base,
            shared=tuple((k, v) for k, v in settings.shared.items() if k in taken),
            each=tuple((k, v) for k, v in settings.each.items() if k in taken),
        )
    )


def _merge_parts(inner: Settings, parts: Matrices) -> torch.Tensor:
    """Merge the parts; a plain sum keeps their precision, other methods take fp32."""
    name = inner.operation.operator
    if name == "task_arithmetic":
        return parts.total(whole_factors(inner))
    return in_fp32(partial(_ARITHMETIC[name], inner), parts)
