"""KnOTS (Stoica et al. 2024): merge in one basis that all differences share.

The differences are joined and decomposed once, ``[D_1 ... D_N] = U S V^T``; each is
then ``U C_i``, and an inner method merges the ``C_i``. Entries of the ``C_i`` mean the
same direction in every input, which entries of weights do not.

The rows of the ``C_i`` follow the singular vectors: where singular values are equal, a
method that works entry by entry depends on which basis the decomposition gave.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from evomerge.core.recipe import Operation
from evomerge.core.settings import Settings, resolve
from evomerge.merging.operators.dare import dare_ties
from evomerge.merging.operators.iso import iso_c
from evomerge.merging.operators.linear import delta_factors, task_arithmetic
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo
from evomerge.merging.operators.spectral import (
    Matrices,
    by_matrix,
    is_matrix,
    svd,
)
from evomerge.merging.operators.ties import ties
from evomerge.merging.operators.tsv import tsv

_FLOOR = 1e-7
"""Part of the largest singular value up to which a shared direction is left out."""

_INNER: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "sum": ("task_arithmetic", ("weight", "normalize")),
    "ties": ("ties", ("weight", "normalize", "density", "consensus")),
    "dare_ties": ("dare_ties", ("weight", "normalize", "density", "rescale", "seed")),
    "tsv": ("tsv", ("weight", "rank_frac")),
    "iso": ("iso_c", ("weight",)),
}
"""Inner method to its operator and which of its knobs are ours; lambda comes last."""
_ARITHMETIC = {"ties": ties, "dare_ties": dare_ties, "tsv": tsv, "iso_c": iso_c}


def knots(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Merge the differences by another method, in a basis they share.

    Vectors get the weighted sum of the differences.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    assert base is not None
    if not is_matrix(base):
        return task_arithmetic(settings, tensors, base, key)
    turned = settings.choice("join") == "out"
    inner = inner_settings(settings)

    def merge(matrices: Matrices) -> torch.Tensor:
        shared = share(matrices, turned=turned)
        if not shared.parts[0].numel():
            return torch.zeros_like(matrices.deltas[0])
        merged = shared.basis @ _merge_parts(inner, shared.parts, matrices.key)
        return merged.T if turned else merged

    return by_matrix(settings, tensors, base, key, merge, memo)


@dataclass(frozen=True, slots=True)
class Shared:
    """Differences in one basis: ``D_i = basis @ parts[i]``.

    Attributes:
        basis: Shape ``(rows, r)``: orthonormal columns.
        parts: Each of shape ``(r, columns)``.
    """

    basis: torch.Tensor
    parts: tuple[torch.Tensor, ...]


def share(matrices: Matrices, *, turned: bool = False) -> Shared:
    """Find the basis, once for all candidates.

    Args:
        matrices: The differences.
        turned: Join them along their rows instead: a basis of the transposed ones.
    """

    def compute() -> Shared:
        deltas = [delta.T if turned else delta for delta in matrices.deltas]
        noise = math.hypot(*matrices.noise)
        found = svd(torch.cat(deltas, dim=1), matrices.key, floor=_FLOOR, noise=noise)
        return Shared(found.left, tuple(found.left.T @ delta for delta in deltas))

    side = "rows" if turned else "columns"
    what = ("shared", side, matrices.key, matrices.base, *matrices.names)
    return matrices.memo.recall(what, compute)


def inner_settings(settings: Settings) -> Settings:
    """Return the inner method with the knobs that KnOTS has for it."""
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


def _merge_parts(
    inner: Settings, parts: Sequence[torch.Tensor], key: str
) -> torch.Tensor:
    """Merge the parts; a plain sum keeps their precision, other methods take fp32."""
    name = inner.operation.operator
    if name == "task_arithmetic":
        factors = delta_factors(inner)
        return sum(
            (part * factor for part, factor in zip(parts, factors, strict=True)),
            torch.zeros_like(parts[0]),
        )
    narrow = [part.to(torch.float32) for part in parts]
    merged = _ARITHMETIC[name](inner, narrow, torch.zeros_like(narrow[0]), key)
    return merged.to(parts[0].dtype)
