"""Interpolation along the arc between two tensors, or two differences from a base.

What an operator needs to know of a sphere is how its inputs stand to each other, which
their dot products tell: barycentres are sums of the inputs, so everything but the last
sum happens among a few numbers. The products are exact to fp64 and do not depend on how
the work is cut.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch

from evomerge.core.operators.derived import DOT_PRODUCTS
from evomerge.core.recipes.settings import slerp_t
from evomerge.errors import CandidateError
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.linear import weighted

_PARALLEL = 0.9995
"""Beyond this cosine slerp goes straight: the arc cannot be told from the chord."""
_NO_LENGTH = 1e-8
"""A vector shorter than this has no direction."""
_NO_ARC = 1e-8
"""Below this sine two vectors lie on one line and span no arc."""


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


def measure(vectors: Deltas, inputs: Inputs) -> Angles:
    """Measure the flattened inputs, or their differences from a base, once.

    Raises:
        CandidateError: An input is not finite; the message names it and the tensor.
    """
    products = known_products(vectors)
    for name, square in zip(
        inputs.operation.inputs, products.diagonal().tolist(), strict=True
    ):
        if not math.isfinite(square):
            raise CandidateError(
                f"{inputs.key}: input {name!r} (or the base) is not finite, so it "
                "has no direction. Leave that input out, or repair it."
            )
    lengths = products.diagonal().sqrt()
    lengths = torch.where(lengths > _NO_LENGTH, lengths, 0.0)
    scale = torch.where(lengths > 0.0, 1.0 / lengths, 0.0)
    cosines = (products * scale * scale[:, None]).clamp_(-1.0, 1.0)
    cosines.diagonal().copy_(lengths > 0.0)
    return Angles(lengths, cosines)


def known_products(vectors: Deltas) -> torch.Tensor:
    """Return all dot products, computed once for all candidates."""
    everyone = range(len(vectors))
    return vectors.recall(DOT_PRODUCTS, everyone, lambda: dot_products(vectors))


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


_log = logging.getLogger(__name__)


def slerp(inputs: Inputs) -> LazyMerge:
    """Interpolate two tensors on the arc between them, lengths left as they are."""
    vectors = Deltas.of(inputs)
    t = inputs.settings.number("t")
    cosine = _cosine(vectors)
    if cosine is None or abs(cosine) > _PARALLEL:
        if cosine is not None and cosine < 0:
            _log.warning(
                "%s: the inputs of slerp point in opposite directions (cosine %.6f); "
                "they are averaged in a straight line and may cancel.",
                inputs.key,
                cosine,
            )
        return weighted(inputs, (1.0 - t, t))
    return weighted(inputs, _arc(math.acos(cosine), t))


def nuslerp(inputs: Inputs) -> torch.Tensor | LazyMerge:
    """Interpolate two tensors, or their differences from a base, on the arc.

    With the axis ``in`` each row turns by its own angle, with ``out`` each vector along
    the first axis: each column of a matrix; of experts that are merged as one tensor,
    an entry of all of them. A tensor of fewer than two dimensions turns as a whole.
    """
    vectors = Deltas.of(inputs)
    t = slerp_t(inputs.settings)
    axis = inputs.settings.choice("axis")
    if axis != "flat" and len(vectors.shape) >= 2:
        return _by_vector(inputs, t, dim=-1 if axis == "in" else 0)
    cosine = _cosine(vectors)
    theta = 0.0 if cosine is None else math.acos(cosine)
    if abs(math.sin(theta)) < _NO_ARC:
        return weighted(inputs, (1.0 - t, t))
    return weighted(inputs, _arc(theta, t))


def _arc(theta: float, t: float) -> tuple[float, float]:
    sine = math.sin(theta)
    return math.sin((1.0 - t) * theta) / sine, math.sin(t * theta) / sine


def _cosine(pair: Deltas) -> float | None:
    """Return the cosine between two flattened vectors; None if one has no length."""
    (aa, dot), (_, bb) = known_products(pair).tolist()
    if math.sqrt(aa) <= _NO_LENGTH or math.sqrt(bb) <= _NO_LENGTH:
        return None
    return max(-1.0, min(1.0, float(dot / math.sqrt(aa * bb))))


def _by_vector(inputs: Inputs, t: float, dim: int) -> torch.Tensor:
    """Interpolate every vector along ``dim`` by its own angle; fresh, fp32."""
    a, b = (tensor.to(torch.float32) for tensor in inputs.tensors)
    start = None if inputs.base is None else inputs.base.to(torch.float32)
    if start is not None:
        a, b = a - start, b - start
    first, second = _factors(a, b, t, dim)
    out = (a * first).add_(b * second)
    return out if start is None else out.add_(start)


def _factors(
    a: torch.Tensor, b: torch.Tensor, t: float, dim: int
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the factor of every vector of each input, fp32, size 1 along ``dim``."""

    def total(product: torch.Tensor) -> torch.Tensor:
        return product.sum(dim=dim, keepdim=True, dtype=torch.float64)

    lengths = total(a * a).sqrt_() * total(b * b).sqrt_()
    cosine = total(a * b) / lengths.clamp_min(torch.finfo(torch.float64).tiny)
    theta = cosine.clamp_(-1.0, 1.0).acos_()
    sine = theta.sin()
    straight = (sine.abs() < _NO_ARC) | (lengths <= _NO_LENGTH**2)
    sine.masked_fill_(straight, 1.0)
    first = torch.sin((1.0 - t) * theta).div_(sine).masked_fill_(straight, 1.0 - t)
    second = torch.sin(t * theta).div_(sine).masked_fill_(straight, t)
    return first.to(torch.float32), second.to(torch.float32)
