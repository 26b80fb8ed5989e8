"""Interpolation along the arc between two tensors, or two differences from a base."""

import logging
import math
from collections.abc import Sequence

import torch

from evomerge.core.recipes.recipe import Operation
from evomerge.core.recipes.settings import Settings, slerp_t
from evomerge.merging.operators.directions.angles import known_products
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo
from evomerge.merging.operators.sums.linear import Sum

_log = logging.getLogger(__name__)

_PARALLEL = 0.9995
"""Beyond this cosine slerp goes straight: the arc cannot be told from the chord."""
_NO_LENGTH = 1e-8
"""A vector shorter than this has no direction."""
_NO_ARC = 1e-8
"""Below this sine two vectors lie on one line and span no arc."""


def slerp(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> Sum:
    """Interpolate two tensors on the arc between them, lengths left as they are."""
    inputs = Deltas(tensors, None)
    t = settings.number("t")
    cosine = _cosine(inputs, settings.operation, key, memo)
    if cosine is None or abs(cosine) > _PARALLEL:
        if cosine is not None and cosine < 0:
            _log.warning(
                "%s: the inputs of slerp point in opposite directions (cosine %.6f); "
                "they are averaged in a straight line and may cancel.",
                key,
                cosine,
            )
        return Sum(inputs, (1.0 - t, t))
    return Sum(inputs, _arc(math.acos(cosine), t))


def nuslerp(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor | Sum:
    """Interpolate two tensors, or their differences from a base, on the arc.

    With the axis ``in`` each row turns by its own angle, with ``out`` each vector along
    the first axis: each column of a matrix; of experts that are merged as one tensor,
    an entry of all of them. A tensor of fewer than two dimensions turns as a whole.
    """
    inputs = Deltas(tensors, base)
    t = slerp_t(settings)
    axis = settings.choice("axis")
    if axis != "flat" and len(inputs.shape) >= 2:
        return _by_vector(tensors, base, t, dim=-1 if axis == "in" else 0)
    cosine = _cosine(inputs, settings.operation, key, memo)
    theta = 0.0 if cosine is None else math.acos(cosine)
    if abs(math.sin(theta)) < _NO_ARC:
        return Sum(inputs, (1.0 - t, t))
    return Sum(inputs, _arc(theta, t))


def _arc(theta: float, t: float) -> tuple[float, float]:
    sine = math.sin(theta)
    return math.sin((1.0 - t) * theta) / sine, math.sin(t * theta) / sine


def _cosine(pair: Deltas, operation: Operation, key: str, memo: Memo) -> float | None:
    """Return the cosine between two flattened vectors; None if one has no length."""
    (aa, dot), (_, bb) = known_products(pair, operation, key, memo).tolist()
    if math.sqrt(aa) <= _NO_LENGTH or math.sqrt(bb) <= _NO_LENGTH:
        return None
    return max(-1.0, min(1.0, float(dot / math.sqrt(aa * bb))))


def _by_vector(
    tensors: Sequence[torch.Tensor], base: torch.Tensor | None, t: float, dim: int
) -> torch.Tensor:
    """Interpolate every vector along ``dim`` by its own angle; fresh, fp32."""
    a, b = (tensor.to(torch.float32) for tensor in tensors)
    start = None if base is None else base.to(torch.float32)
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
