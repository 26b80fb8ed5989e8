"""The tensors of one merge as compiled code knows them, and loops over their parts.

Parts are worked on by as many threads as torch uses.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evomerge.core.recipes.operation import Operation
from evomerge.errors import CandidateError
from evomerge.merging.constants import BLOCK
from evomerge.merging.operators.loops.blocks import Deltas

Loop = Callable[[int, int], int]
"""Works on the entries from one place to another; not zero if something is amiss."""

SMALL = 1 << 15
"""Below this many entries compiled code saves nothing worth compiling it for."""
WORTHWHILE = 1 << 18
"""Fewest entries that are worth a thread of their own."""
_WORDS = {torch.float32: None, torch.bfloat16: torch.uint16, torch.float16: torch.int16}
"""Element type to the words it is seen as; compiled code goes by these."""
_PAIR = 2
MOST_INPUTS = 8
"""Code is compiled for each number of inputs; with more of them it is not worth it."""


def over_entries(loop: Loop, n: int) -> bool:
    """Run a compiled loop over ``n`` entries, in parts that begin at whole blocks.

    Returns:
        Whether every part returned zero.
    """
    return in_parts(loop, n, multiple_of=BLOCK, least=WORTHWHILE)


def in_parts(loop: Loop, n: int, *, multiple_of: int, least: int) -> bool:
    """Run a loop from 0 to ``n`` in parts, on as many threads as torch uses.

    Args:
        loop: May be called from several threads at once.
        n: End.
        multiple_of: Parts begin at multiples of this.
        least: Fewest entries that are worth a part.

    Returns:
        Whether every part returned zero.
    """
    threads = min(torch.get_num_threads(), -(-n // least))
    if threads <= 1:
        return loop(0, n) == 0
    # More parts than threads: a thread the machine holds up does fewer.
    part = max(-(-n // (4 * threads)), least)
    part = -(-part // multiple_of) * multiple_of
    lows = iter(range(0, n, part))

    def work() -> bool:
        return all(loop(low, min(low + part, n)) == 0 for low in lows)

    others = [_pool(threads, os.getpid()).submit(work) for _ in range(threads - 1)]
    try:
        well = work()
    finally:
        # One that has not begun is not waited for: nothing is left for it to do, and
        # it may stand behind the very work that this is a part of.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    return all([well, *(other.result() for other in begun)])


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")


Array = npt.NDArray[Any]
Part = tuple[tuple[Array, ...], Array | None, Array | None]
"""A part of the inputs, of the base, and of the result if there is one."""
Merge = Callable[[Part, int], int]
"""Merges a part, given with its first entry; returns the bits of the largest size."""


def can_count(deltas: Deltas) -> bool:
    """Tell whether compiled code can look at all inputs, and is worth it."""
    fits = deltas.n >= SMALL and len(deltas) <= MOST_INPUTS
    return fits and can_read(deltas)


def can_read(deltas: Deltas) -> bool:
    """Tell whether compiled code can read these tensors."""
    return all(is_plain(tensor) for tensor in deltas.sources())


def is_plain(tensor: torch.Tensor) -> bool:
    """Tell whether compiled code knows a tensor's memory."""
    known = tensor.device.type == "cpu" and tensor.dtype in _WORDS
    return known and tensor.is_contiguous()


def as_array(tensor: torch.Tensor) -> Array:
    """Return a tensor's flat memory as compiled code knows it."""
    words = _WORDS[tensor.dtype]
    flat = tensor.view(-1)
    return (flat if words is None else flat.view(words)).numpy()


def arrays_of(deltas: Deltas, index: int) -> tuple[Array, Array | None]:
    """Return an input and the base, flat, as compiled code knows them."""
    start = deltas.start()
    return as_array(deltas.tensors()[index]), None if start is None else as_array(start)


@dataclass(frozen=True, slots=True)
class Arrays:
    """The tensors of one merge, flat.

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
        return self._each(lambda array: array[low:high])

    def each(self, work: Callable[[Part, int], object]) -> None:
        """Look at every part, on several threads.

        Args:
            work: Called with a part and its first entry, from several threads at once.
        """

        def loop(low: int, high: int) -> int:
            work(self.part(low, high), low)
            return 0

        over_entries(loop, len(self.inputs[0]))

    def are_finite(self, merge: Merge, split: int = 0, *, paired: bool = False) -> bool:
        """Merge part by part, on several threads.

        Args:
            merge: Called from several threads at once.
            split: An entry that a part begins with.
            paired: As for :meth:`merge`.

        Returns:
            Whether everything that was written is finite.
        """

        def loop(low: int, high: int) -> int:
            edges = sorted({low, min(max(split, low), high), high})
            found = [
                self.merge(merge, *ends, paired=paired) for ends in pairwise(edges)
            ]
            return any(found)

        return over_entries(loop, len(self.inputs[0]))

    @property
    def limit(self) -> int:
        """The least bits of a size that is not finite once it is written."""
        from evomerge.merging.kernels.numbers import overflow

        assert self.out is not None
        return overflow(self.out.dtype)

    def merge(self, merge: Merge, low: int, high: int, *, paired: bool) -> bool:
        """Merge the entries from one place to another, those of bf16 in pairs.

        One that is left over at an end is merged as both of a pair.

        Args:
            merge: Compiled code that knows pairs, as words of 32 bits.
            low: The first entry.
            high: Where it ends.
            paired: False for code that does not know them.

        Returns:
            Whether something that was written is not finite.
        """
        if not (paired and self._is_brain):
            return merge(self.part(low, high), low) >= self.limit
        first, last = low + low % _PAIR, high - high % _PAIR
        alone = [place for place in {low, last} if not first <= place < last]
        sizes = [self._merge_alone(merge, place) for place in alone if place < high]
        if first < last:
            words = self._each(lambda array: array[first:last].view(np.uint32))
            sizes.append(merge(words, first))
        return max(sizes, default=0) >= self.limit

    @property
    def _is_brain(self) -> bool:
        arrays = (*self.inputs, self.base, self.out)
        return all(array is None or array.dtype == np.uint16 for array in arrays)

    def _merge_alone(self, merge: Merge, place: int) -> int:
        both = self._each(
            lambda array: np.repeat(array[place : place + 1], _PAIR).view(np.uint32)
        )
        size = merge(both, place)
        assert self.out is not None
        assert both[2] is not None
        self.out[place] = both[2].view(np.uint16)[0]
        return size

    def _each(self, seen: Callable[[Array], Array]) -> Part:
        inputs = tuple(seen(array) for array in self.inputs)
        base = None if self.base is None else seen(self.base)
        return inputs, base, None if self.out is None else seen(self.out)


def is_finite(tensor: torch.Tensor) -> bool:
    """Tell whether every entry is a finite number, in one pass for good tensors."""
    if is_plain(tensor) and tensor.numel() >= SMALL:
        return _is_finite_compiled(tensor)
    # One bad entry makes the sum bad; a sum of good ones may overflow, so look again.
    total = float(tensor.sum(dtype=torch.float32))
    return math.isfinite(total) or bool(torch.isfinite(tensor).all())


def not_finite(name: str, operation: Operation, merged: torch.Tensor) -> CandidateError:
    """Say of a merged tensor that it is not finite; ``name`` is its own."""
    bad, of = int((~torch.isfinite(merged)).sum()), merged.numel()
    dtype = str(merged.dtype).removeprefix("torch.")
    return CandidateError(
        f"Merged tensor {name!r} is not finite: {bad} of {of} entries are NaN or too "
        f"large for {dtype}, from operator {operation.operator!r} over "
        f"{list(operation.inputs)}."
    )


def _is_finite_compiled(tensor: torch.Tensor) -> bool:
    from evomerge.merging.kernels.numbers import is_any_infinite

    array = as_array(tensor)
    return over_entries(
        lambda low, high: int(is_any_infinite(array[low:high])), tensor.numel()
    )
