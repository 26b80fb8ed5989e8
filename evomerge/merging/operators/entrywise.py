"""Merges that look at every entry by itself, in one compiled pass, part by part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy.typing as npt
import torch

from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.onepass import as_array, can_read
from evomerge.merging.operators.parts import SMALL, over_entries

_MOST_INPUTS = 8
"""Code is compiled for each number of inputs; with more of them it is not worth it."""

Array = npt.NDArray[Any]
Part = tuple[tuple[Array, ...], Array | None, Array | None]
"""A part of the inputs, of the base, and of the result if there is one."""


def can_count(deltas: Deltas) -> bool:
    """Tell whether compiled code can look at all inputs, and is worth it."""
    fits = deltas.n >= SMALL and len(deltas) <= _MOST_INPUTS
    return fits and can_read(deltas)


@dataclass(frozen=True, slots=True)
class Arrays:
    """The tensors of one merge, flat, as compiled code knows them.

    Attributes:
        inputs: One per input.
        base: What they differ from, if anything.
        out: The result, if there is one.
    """

    inputs: tuple[Array, ...]
    base: Array | None
    out: Array | None = None

    @classmethod
    def of(cls, deltas: Deltas, out: torch.Tensor | None = None) -> Arrays:
        """Return the arrays of a merge that compiled code can do."""
        start = deltas.start()
        return cls(
            tuple(as_array(tensor) for tensor in deltas.tensors()),
            None if start is None else as_array(start),
            None if out is None else as_array(out),
        )

    def part(self, low: int, high: int) -> Part:
        """Return a part of every array."""
        inputs = tuple(array[low:high] for array in self.inputs)
        base = None if self.base is None else self.base[low:high]
        out = None if self.out is None else self.out[low:high]
        return inputs, base, out

    def each(self, work: Callable[[Part, int], object]) -> None:
        """Look at every part, on several threads.

        Args:
            work: Called with a part and its first entry, from several threads at once.
        """

        def loop(low: int, high: int) -> int:
            work(self.part(low, high), low)
            return 0

        over_entries(loop, len(self.inputs[0]))

    def are_finite(self, merge: Callable[[Part, int], int], split: int = 0) -> bool:
        """Merge part by part, on several threads.

        Args:
            merge: Called with a part and its first entry, from several threads at once;
                returns the bits of the largest size it wrote.
            split: An entry that a part begins with.

        Returns:
            Whether everything that was written is finite.
        """
        from evomerge.merging.kernels.numbers import overflow

        assert self.out is not None
        limit = overflow(self.out.dtype)

        def loop(low: int, high: int) -> int:
            edges = sorted({low, min(max(split, low), high), high})
            parts = (merge(self.part(*ends), ends[0]) for ends in pairwise(edges))
            return max(parts) >= limit

        return over_entries(loop, len(self.out))
