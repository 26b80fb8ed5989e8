"""RAM and RAM+ (2601.13572): what one input changed is kept, the shared is averaged."""

from collections.abc import Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.combine import combine, stacks
from evomerge.merging.operators.memo import NOTHING_KEPT, Memo


def ram(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Keep differences that are alone in their entry, average those that are not."""
    return _merge(settings, Deltas(tensors, base), (1.0,) * len(tensors), key)


def ramplus_tl(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """As :func:`ram`, with the lone differences amplified.

    The more of its changes an input shares with others in this tensor, the more its
    lone ones grow, up to ``1 + r * alpha``.
    """
    deltas = Deltas(tensors, base)
    r, alpha = settings.number("r"), settings.number("alpha")
    ratios = _shared_to_unique(deltas, settings.number("epsilon"))
    factors = tuple(1.0 + r * min(max(ratio, 0.0), alpha) for ratio in ratios)
    return _merge(settings, deltas, factors, key)


def _merge(
    settings: Settings, deltas: Deltas, alone: Sequence[float], key: str
) -> torch.Tensor:
    epsilon = settings.number("epsilon")

    def merge(read: list[torch.Tensor]) -> torch.Tensor:
        count = torch.zeros_like(read[0])
        for delta in read:
            active = (delta.abs() > epsilon).to(torch.float32)
            count.add_(active)
            delta.mul_(active)
        unique = count == 1.0
        out = torch.zeros_like(count)
        for delta, factor in zip(read, alone, strict=True):
            out.add_(
                delta if factor == 1.0 else torch.where(unique, delta * factor, delta)
            )
        return out.div_(count.clamp_min_(1.0))

    return combine(deltas, settings.number("lambda"), merge, key)


def _shared_to_unique(deltas: Deltas, epsilon: float) -> list[float]:
    """Return, per input, its entries shared with others over those it has alone."""
    counts = torch.zeros(2, len(deltas), dtype=torch.int64, device=deltas.device)
    for _, _, read in stacks(deltas):
        active = torch.stack([delta.abs() > epsilon for delta in read])
        number = active.sum(dim=0)
        counts[0] += (active & (number > 1)).sum(dim=1)
        counts[1] += (active & (number == 1)).sum(dim=1)
    shared, unique = counts.tolist()
    # An input with nothing alone has nothing to amplify.
    return [s / u if u else 0.0 for s, u in zip(shared, unique, strict=True)]
