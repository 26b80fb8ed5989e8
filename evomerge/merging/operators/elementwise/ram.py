"""RAM and RAM+ (2601.13572): what one input changed is kept, the shared is averaged."""

import threading
from collections.abc import Sequence

import numpy as np
import torch

from evomerge.core.operators.derived import SHARED_TO_UNIQUE
from evomerge.merging.form import Active, Form
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import Arrays, Part, can_count
from evomerge.merging.operators.loops.blocks import Deltas, stacks


def ram(inputs: Inputs) -> LazyMerge:
    """Keep differences that are alone in their entry, average those that are not."""
    return _merge(inputs, Deltas.of(inputs), (1.0,) * len(inputs.tensors))


def ramplus_tl(inputs: Inputs) -> LazyMerge:
    """As :func:`ram`, with the lone differences amplified.

    The more of its changes an input shares with others in this tensor, the more its
    lone ones grow, up to ``1 + r * alpha``.
    """
    settings, deltas = inputs.settings, Deltas.of(inputs)
    r, alpha = settings.number("r"), settings.number("alpha")
    epsilon = settings.number("epsilon")
    ratios = deltas.recall(
        SHARED_TO_UNIQUE.at(epsilon),
        range(len(deltas)),
        lambda: tuple(_shared_to_unique(deltas, epsilon)),
    )
    factors = tuple(1.0 + r * min(max(ratio, 0.0), alpha) for ratio in ratios)
    return _merge(inputs, deltas, factors)


def _merge(inputs: Inputs, deltas: Deltas, alone: Sequence[float]) -> LazyMerge:
    number = inputs.settings.number
    how = Active(number("epsilon"), tuple(alone))
    form = Form(how, scale=number("lambda"), checked=True)
    return LazyMerge(deltas, form, inputs.key)


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
    from evomerge.merging.kernels.merge import count_active

    total = np.zeros((len(deltas), 2), dtype=np.int64)
    zeros = ((np.uint32(0), np.uint32(0)),) * len(deltas)
    lock = threading.Lock()

    def count(part: Part, low: int) -> None:
        found = count_active(part, np.float32(epsilon), zeros)
        with lock:
            np.add(total, np.array(found), out=total, casting="unsafe")

    Arrays.of(deltas).each(count)
    return [(int(shared), int(alone)) for shared, alone in total]
