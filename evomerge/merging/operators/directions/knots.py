"""Other methods in shared bases: KnOTS (Stoica et al. 2024) and core space (2025).

KnOTS (2410.19735) joins the differences and decomposes them once,
``[D_1 ... D_N] = U S V^T``: each is then ``U C_i``. Core space (Panariello et al. 2025,
2509.17786) takes a basis of both sides: each is then ``U M_i V^T``. Nothing is lost.
Entries of the ``C_i`` and ``M_i`` mean the same direction in every input, which entries
of weights do not.

The authors of core space take the bases from the stacked factors of adapters; here they
come from the stacked differences, which span the same spaces, so that it does not
matter in which factors a difference was written, or whether it was written in any.

Rows of a part follow the singular vectors: where singular values are equal, a method
that works entry by entry depends on which basis the decomposition gave.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import torch

from evomerge.core.operators.derived import CORE, SHARED_BASIS
from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import Settings, resolve
from evomerge.merging.operators.directions.singular_vectors import (
    Matrices,
    Merge,
    Svd,
    by_matrix,
    in_fp32,
    is_matrix,
    svd,
)
from evomerge.merging.operators.directions.spectral import iso_c, tsv
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.sums.dare import dare_ties
from evomerge.merging.operators.sums.linear import task_arithmetic, whole_factors
from evomerge.merging.operators.sums.ties import ties

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
_ARITHMETIC: Mapping[str, Callable[..., torch.Tensor | LazyMerge]] = {
    "ties": ties,
    "dare_ties": dare_ties,
    "tsv": tsv,
    "iso_c": iso_c,
}


@dataclass(frozen=True, slots=True)
class Shared:
    """Differences in bases that they share: ``D_i = left @ parts[i] @ right``.

    Attributes:
        left: Shape ``(rows, r)``: orthonormal columns.
        parts: Each of shape ``(r, columns)``, or ``(r, s)``.
        right: Shape ``(s, columns)``: orthonormal rows; None leaves out this side.
        turned: The parts are those of the transposed differences.
    """

    left: torch.Tensor
    parts: tuple[torch.Tensor, ...]
    right: torch.Tensor | None = None
    turned: bool = False

    def back(self, part: torch.Tensor) -> torch.Tensor:
        """Return the difference that a merged part stands for."""
        found = self.left @ part
        if self.right is not None:
            found = found @ self.right
        return found.T if self.turned else found


Find = Callable[[Matrices], Shared]
"""Finds the shared bases of one matrix of every input, once for all candidates."""


def share(matrices: Matrices, *, turned: bool = False) -> Shared:
    """Find the basis of one side.

    Args:
        matrices: The differences.
        turned: Join them along their rows instead: a basis of the transposed ones.
    """

    def compute() -> Shared:
        found = _joined(matrices, turned=turned)
        deltas = [delta.T if turned else delta for delta in matrices.deltas]
        parts = tuple(found.left.T @ delta for delta in deltas)
        return Shared(found.left, parts, turned=turned)

    return matrices.recall(SHARED_BASIS.at(turned), matrices.everyone, compute)


def core(matrices: Matrices) -> Shared:
    """Find the bases of both sides."""

    def compute() -> Shared:
        left = _joined(matrices, turned=False).left
        right = _joined(matrices, turned=True).left.T
        parts = tuple(left.T @ delta @ right.T for delta in matrices.deltas)
        return Shared(left, parts, right)

    return matrices.recall(CORE, matrices.everyone, compute)


def _joined(matrices: Matrices, *, turned: bool) -> Svd:
    deltas = [delta.T if turned else delta for delta in matrices.deltas]
    noise = math.hypot(*matrices.noise)
    return svd(torch.cat(deltas, dim=1), matrices.key, floor=_FLOOR, noise=noise)


def knots(inputs: Inputs) -> torch.Tensor:
    """Merge the differences by another method, in a basis of one side.

    Vectors get the weighted sum of the differences.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    find = partial(share, turned=inputs.settings.choice("join") == "out")
    return _in_bases(inputs, find)


def core_space(inputs: Inputs) -> torch.Tensor:
    """Merge the differences by another method, in bases of both sides.

    Vectors get the weighted sum of the differences.

    Raises:
        CandidateError: An input is not finite, or a decomposition fails.
    """
    return _in_bases(inputs, core)


def _in_bases(inputs: Inputs, find: Find) -> torch.Tensor:
    if not is_matrix(inputs.tensors[0]):
        return task_arithmetic(inputs).fresh()
    merge = within(find, partial(_merge_parts, inner_settings(inputs.settings)))
    return by_matrix(inputs, merge)


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
    return in_fp32(_ARITHMETIC[name], inner, parts)
