"""Weighted averages and task arithmetic: sums of inputs or of their differences."""

from collections.abc import Callable, Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.errors import CandidateError
from evomerge.merging.operators.blocks import Deltas

_TINY = 1e-8
"""A sum of weights below this cannot be divided by."""

_SMALL = 1 << 15
"""Elements up to which the calls cost more than the arithmetic."""

Thin = Callable[[int, slice, torch.Tensor], None]
"""Sparsifies, in place, a block of one input's differences: (input, block, values)."""


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
                f"{key}: the weights {list(weights)} of a normalised linear merge sum "
                "to zero, so there is no average. Change one, or set normalize off."
            )
        weights = tuple(weight / total for weight in weights)
    return weighted_sum(tensors, None, weights)


def task_arithmetic(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Add scaled differences to the base: ``base + lambda * sum(w_i (x_i - base))``."""
    assert base is not None
    return weighted_sum(tensors, base, delta_factors(settings))


def bcwi(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Go from the mean of new models back to the old one, the base, by ``alpha``.

    Backward-compatible weight interpolation (Schumann et al. 2023, 2301.10546); with
    several new models it is their soup that goes back.
    """
    assert base is not None
    share = (1.0 - settings.number("alpha")) / len(tensors)
    return weighted_sum(tensors, base, (share,) * len(tensors))


def delta_factors(settings: Settings) -> tuple[float, ...]:
    """Return the factor of each input's difference: weight, lambda and normalize."""
    weights = settings.numbers("weight")
    scale = settings.number("lambda")
    if settings.flag("normalize"):
        total = sum(weights)
        # With nothing to divide by, the sum stays as it is: all weights zero must
        # give the base. mergekit guards the same way.
        scale = scale if abs(total) < _TINY else scale / total
    return tuple(scale * weight for weight in weights)


def weighted_sum(
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    factors: Sequence[float],
) -> torch.Tensor:
    """Return ``base + sum(f_i (x_i - base))``, or ``sum(f_i x_i)``; fresh, fp32.

    Small tensors take a path without blocks: same steps, same bytes, fewer calls.
    """
    if tensors[0].numel() > _SMALL:
        return add_deltas(Deltas(tensors, base), factors)
    out = torch.empty(tensors[0].shape, dtype=torch.float32, device=tensors[0].device)
    if base is None:
        out.copy_(tensors[0]).mul_(factors[0])
        for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
            out.add_(tensor, alpha=factor)
        return out
    start = base.to(torch.float32)
    torch.sub(tensors[0], start, out=out).mul_(factors[0])
    for tensor, factor in zip(tensors[1:], factors[1:], strict=True):
        out.add_(torch.sub(tensor, start), alpha=factor)
    return out.add_(start)


def add_deltas(
    deltas: Deltas, factors: Sequence[float], thin: Thin | None = None
) -> torch.Tensor:
    """Return ``base + sum(f_i thin(x_i - base))`` as a fresh fp32 tensor.

    Without a base it is the sum over the inputs themselves.
    """
    out, space = deltas.fresh(), deltas.scratch()
    into = out.view(-1)
    for block in deltas.blocks():
        base, part = deltas.base(block), into[block]
        for index, factor in enumerate(factors):
            delta = deltas.read(index, block, base, space if index else part)
            if thin is not None:
                thin(index, block, delta)
            if index:
                part.add_(delta, alpha=factor)
            else:
                part.mul_(factor)
        if base is not None:
            part.add_(base)
    return out
