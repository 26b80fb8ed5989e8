"""A few cuts of one input's differences by size, found in one pass.

A sample says near which size each cut is; only the entries near it are looked at more
closely.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merging.constants import BLOCK
from evomerge.merging.operators.loops.arrays import arrays_of
from evomerge.merging.operators.loops.blocks import Deltas

_SAMPLE = (1 << 14, 1 << 16)
"""At least and at most so many sizes are looked at to guess where a cut is."""
_DEVIATIONS = 5
"""By how many standard deviations a guess may be off."""
_ROOM = 8
"""At most one entry in so many may be near a cut."""

Array = npt.NDArray[Any]


def few_cuts(
    deltas: Deltas, index: int, keeps: Sequence[int]
) -> tuple[Array, torch.Tensor] | None:
    """Find a few cuts, each among the sizes near where a sample says it is.

    Returns:
        Bits of the thresholds and flat indices of their last ties; None if the sample
        misled, or if too many sizes are near a cut.
    """
    from evomerge.merging.kernels.order_statistics import collect, keys_at

    x, base = arrays_of(deltas, index)
    looked_at = min(max(deltas.n >> 8, _SAMPLE[0]), _SAMPLE[1])
    places = np.arange(looked_at, dtype=np.int64) * deltas.n // looked_at
    sample = np.sort(keys_at(x, base, places))[::-1]
    edges = np.array([_near(sample, keep / deltas.n) for keep in keeps], np.uint32)
    shape = (len(keeps), deltas.n // _ROOM + BLOCK)
    sizes, indices = np.empty(shape, np.uint32), np.empty(shape, np.int64)
    numbers = np.empty((len(keeps), 2), np.int64)
    collect(x, base, edges, (sizes, indices, numbers))
    keys, lasts = np.zeros(len(keeps), np.uint32), np.zeros(len(keeps), np.int64)
    for i, keep in enumerate(keeps):
        above, number = numbers[i]
        rest = keep - int(above)
        if not 0 < rest <= number:
            return None
        if edges[i, 0] == edges[i, 1]:
            keys[i] = edges[i, 0]
            lasts[i] = _last((x, base), keys[i], rest, of=number)
        else:
            keys[i], lasts[i] = _last_of(sizes[i, :number], indices[i], rest)
    return keys.view(np.int32), torch.from_numpy(lasts)


def _near(sample: Array, part: float) -> tuple[int, int]:
    """Return the smallest and the largest size between which a cut surely lies."""
    n = len(sample)
    at = int(part * n)
    margin = int(_DEVIATIONS * math.sqrt(part * (1.0 - part) * n)) + _DEVIATIONS
    high = sample[at - margin] if at >= margin else 0xFFFFFFFF
    low = sample[at + margin] if at + margin < n else 0
    return int(low), int(high)


def _last(source: tuple[Array, Array | None], key: Any, number: int, of: int) -> int:
    """Return the flat index of the so-many-th entry of a size."""
    from evomerge.merging.kernels.order_statistics import nth_equal

    x, base = source
    # If all of them stay, there is no need to look for the last.
    return len(x) if number == of else int(nth_equal(x, base, key, np.int64(number)))


def _last_of(sizes: Array, indices: Array, keep: int) -> tuple[int, int]:
    """Return the smallest of so many sizes, the largest, and where its last one is.

    Args:
        sizes: uint32.
        indices: int64: their flat indices, ascending.
        keep: How many.
    """
    ascending = np.sort(sizes)
    key = ascending[-keep]
    larger = len(sizes) - int(np.searchsorted(ascending, key, side="right"))
    equal = np.flatnonzero(sizes == key)
    return int(key), int(indices[equal[keep - larger - 1]])
