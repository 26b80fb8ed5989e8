"""RAM and RAM+ (2601.13572): what one input changed is kept, the shared is averaged."""

import threading
from collections.abc import Sequence

import numpy as np
import torch

from evomerge.core.operators.derived import SHARED_TO_UNIQUE
from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import Arrays, Part, can_count
from evomerge.merging.operators.loops.blocks import Deltas, stacks
from evomerge.merging.operators.loops.lazy_merge import Combined


def ram(inputs: Inputs) -> Combined:
    """Keep differences that are alone in their entry, average those that are not."""
    return _merge(
        inputs.settings, Deltas.of(inputs), (1.0,) * len(inputs.tensors), inputs.key
    )


def ramplus_tl(inputs: Inputs) -> Combined:
    """As :func:`ram`, with the lone differences amplified.

    The more of its changes an input shares with others in this tensor, the more its
    lone ones grow, up to ``1 + r * alpha``.
    """
    settings = inputs.settings
    deltas = Deltas.of(inputs)
    r, alpha = settings.number("r"), settings.number("alpha")
    epsilon = settings.number("epsilon")
    ratios = deltas.recall(
        SHARED_TO_UNIQUE.at(epsilon),
        range(len(deltas)),
        lambda: tuple(_shared_to_unique(deltas, epsilon)),
    )
    factors = tuple(1.0 + r * min(max(ratio, 0.0), alpha) for ratio in ratios)
    return _merge(settings, deltas, factors, inputs.key)


def _merge(
    settings: Settings, deltas: Deltas, alone: Sequence[float], key: str
) -> Combined:
    epsilon, scale = settings.number("epsilon"), settings.number("lambda")

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

    factors = tuple(np.float32(factor) for factor in alone)

    def one_pass(part: Part) -> int:
        from evomerge.merging.kernels.elementwise import ram

        return int(ram(part, np.float32(scale), np.float32(epsilon), factors))

    return Combined(deltas, scale, merge, one_pass, key)


def _shared_to_unique(deltas: Deltas, epsilon: float) -> list[float]:
    """Return, per input, its entries shared with others over those it has alone."""
    count = _count_in_one_pass if can_count(deltas) else _count
    # An input with nothing alone has nothing to amplify.
    return [s / u if u else 0.0 for s, u in count(deltas, epsilon)]


def _count(deltas: Deltas, epsilon: float) -> list[tuple[int, int]]:
    counts = torch.zeros(len(deltas), 2, dtype=torch.int64, device=deltas.device)
    for _, _, read in stacks(deltas):
        active = torch.stack([delta.abs() > epsilon for delta in read])
        number = active.sum(dim=0)
        counts[:, 0] += (active & (number > 1)).sum(dim=1)
        counts[:, 1] += (active & (number == 1)).sum(dim=1)
    return [(shared, alone) for shared, alone in counts.tolist()]


def _count_in_one_pass(deltas: Deltas, epsilon: float) -> list[tuple[int, int]]:
    from evomerge.merging.kernels.elementwise import count_active

    total = np.zeros((len(deltas), 2), dtype=np.int64)
    zeros = ((np.uint32(0), np.uint32(0)),) * len(deltas)
    lock = threading.Lock()

    def count(part: Part, low: int) -> None:
        found = count_active(part, np.float32(epsilon), zeros)
        with lock:
            np.add(total, np.array(found), out=total, casting="unsafe")

    Arrays.of(deltas).each(count)
    return [(int(shared), int(alone)) for shared, alone in total]
