"""Weighted averages and task arithmetic: sums of inputs or of their differences."""

from collections.abc import Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.errors import CandidateError

_TINY = 1e-8
"""A sum of weights below this cannot be divided by."""

BLOCK = 1 << 18
"""Elements worked on at a time: small enough that scratch space stays in the cache."""


def linear(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Average the inputs: ``sum(w_i x_i) / sum(w_i)``, or the plain sum.

    Raises:
        CandidateError: The weights sum to zero, so there is no average.
    """
    weights = settings.numbers("weight")
    if settings.flag("normalize"):
        total = sum(weights)
        if abs(total) < _TINY:
            raise CandidateError(
                f"The weights {list(weights)} of a normalised linear merge sum to "
                "zero, so there is no average. Change a weight or set normalize off."
            )
        weights = tuple(weight / total for weight in weights)
    return weighted_sum(tensors, weights)


def weighted_sum(
    tensors: Sequence[torch.Tensor], weights: Sequence[float]
) -> torch.Tensor:
    """Return ``sum(w_i x_i)`` as a fresh fp32 tensor, summed in the order given."""
    out = torch.mul(
        tensors[0], weights[0], out=torch.empty_like(tensors[0], dtype=torch.float32)
    )
    for tensor, weight in zip(tensors[1:], weights[1:], strict=True):
        out.add_(tensor, alpha=weight)
    return out


def task_arithmetic(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Add scaled differences to the base: ``base + lambda * sum(w_i (x_i - base))``."""
    assert base is not None
    weights = settings.numbers("weight")
    scale = settings.number("lambda")
    if settings.flag("normalize"):
        scale /= divisor(weights)
    return add_deltas(tensors, base, [scale * weight for weight in weights])


def divisor(weights: Sequence[float]) -> float:
    """Return the sum of the weights, or 1 where it is too near zero to divide by.

    With nothing to divide by, a sum of differences stays as it is, so that all weights
    zero still give the base (mergekit has the same guard).
    """
    total = sum(weights)
    return 1.0 if abs(total) < _TINY else total


def add_deltas(
    tensors: Sequence[torch.Tensor], base: torch.Tensor, factors: Sequence[float]
) -> torch.Tensor:
    """Return ``base + sum(f_i (x_i - base))`` as a fresh fp32 tensor.

    Works block by block, so that differences never leave the cache and need no memory
    of their own.
    """
    out = torch.empty_like(
        base, dtype=torch.float32, memory_format=torch.contiguous_format
    )
    n = base.numel()
    if n <= BLOCK:
        _add_block(out, tensors, base.to(torch.float32), factors)
        return out
    flat_out, flat_base = out.view(-1), base.reshape(-1)
    flat = [tensor.reshape(-1) for tensor in tensors]
    for low in range(0, n, BLOCK):
        block = slice(low, low + BLOCK)
        _add_block(
            flat_out[block],
            [tensor[block] for tensor in flat],
            flat_base[block].to(torch.float32),
            factors,
        )
    return out


def _add_block(
    out: torch.Tensor,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor,
    factors: Sequence[float],
) -> None:
    torch.sub(tensors[0], base, out=out)
    out.mul_(factors[0])
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        out.add_(torch.sub(tensor, base), alpha=factor)
    out.add_(base)
