"""Bases that the differences of all inputs share.

KnOTS (Stoica et al. 2024, 2410.19735) joins the differences and decomposes them once,
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
from collections.abc import Callable
from dataclasses import dataclass

import torch

from evomerge.merging.operators.directions.singular_vectors import Matrices, Svd, svd

_FLOOR = 1e-7
"""Part of the largest singular value up to which a shared direction is left out."""


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

    side = "rows" if turned else "columns"
    what = (f"shared {side}", matrices.key, matrices.base, *matrices.names)
    return matrices.memo.recall(what, compute)


def core(matrices: Matrices) -> Shared:
    """Find the bases of both sides."""

    def compute() -> Shared:
        left = _joined(matrices, turned=False).left
        right = _joined(matrices, turned=True).left.T
        parts = tuple(left.T @ delta @ right.T for delta in matrices.deltas)
        return Shared(left, parts, right)

    what = ("core", matrices.key, matrices.base, *matrices.names)
    return matrices.memo.recall(what, compute)


def _joined(matrices: Matrices, *, turned: bool) -> Svd:
    deltas = [delta.T if turned else delta for delta in matrices.deltas]
    noise = math.hypot(*matrices.noise)
    return svd(torch.cat(deltas, dim=1), matrices.key, floor=_FLOOR, noise=noise)
