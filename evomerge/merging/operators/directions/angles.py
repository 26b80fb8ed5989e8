"""Lengths and angles of several vectors, from their dot products.

What an operator needs to know of a sphere is how its inputs stand to each other: their
barycentres are sums of the inputs, so everything but the last sum happens among a few
numbers. The dot products are exact to fp64 and do not depend on how the work is cut.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from evomerge.core.recipes.recipe import Operation
from evomerge.errors import CandidateError
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.memo import Memo

_NO_LENGTH = 1e-8
"""A vector shorter than this has no direction."""


@dataclass(frozen=True, slots=True)
class Angles:
    """How the vectors of a few inputs stand to each other.

    Attributes:
        lengths: Shape ``(n,)``, fp64, on the CPU; those too short for a direction are
            zero.
        cosines: Shape ``(n, n)``, fp64, in [-1, 1]; rows and columns of vectors without
            direction are zero.
    """

    lengths: torch.Tensor
    cosines: torch.Tensor

    def norm(self, sums: torch.Tensor) -> float:
        """Return the length of a sum of the unit vectors, factors of shape ``(n,)``."""
        return float((sums @ self.cosines @ sums).clamp_min(0.0).sqrt())


def measure(vectors: Deltas, operation: Operation, key: str, memo: Memo) -> Angles:
    """Measure the flattened inputs, or their differences from a base, once.

    Raises:
        CandidateError: An input is not finite; the message names it and the tensor.
    """
    products = known_products(vectors, operation, key, memo)
    for name, square in zip(
        operation.inputs, products.diagonal().tolist(), strict=True
    ):
        if not math.isfinite(square):
            raise CandidateError(
                f"{key}: input {name!r} (or the base) is not finite, so it has no "
                "direction. Leave that input out, or repair it."
            )
    lengths = products.diagonal().sqrt()
    lengths = torch.where(lengths > _NO_LENGTH, lengths, 0.0)
    scale = torch.where(lengths > 0.0, 1.0 / lengths, 0.0)
    cosines = (products * scale * scale[:, None]).clamp_(-1.0, 1.0)
    cosines.diagonal().copy_(lengths > 0.0)
    return Angles(lengths, cosines)


def known_products(
    vectors: Deltas, operation: Operation, key: str, memo: Memo
) -> torch.Tensor:
    """Return all dot products, computed once for all candidates."""
    what = ("dot products", key, operation.base, *operation.inputs)
    return memo.recall(what, lambda: dot_products(vectors))


def dot_products(vectors: Deltas) -> torch.Tensor:
    """Return all dot products: shape ``(n, n)``, fp64, on the CPU."""
    n, size = len(vectors), len(vectors.scratch())
    sums = torch.zeros(n, n, dtype=torch.float64, device=vectors.device)
    wide = torch.empty(n + 1, size, dtype=torch.float64, device=vectors.device)
    space = vectors.scratch()
    for block in vectors.blocks():
        base, width = vectors.base(block), block.stop - block.start
        product = wide[n, :width]
        for i in range(n):
            wide[i, :width] = vectors.read(i, block, base, space)
            for j in range(i + 1):
                torch.mul(wide[i, :width], wide[j, :width], out=product)
                sums[i, j] += product.sum()
    return (sums + sums.tril(-1).T).cpu()
