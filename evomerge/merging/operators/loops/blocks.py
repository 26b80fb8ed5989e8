"""Tensors read a block at a time, so that scratch space never leaves the cache.

A fresh buffer as large as the tensor costs several times the arithmetic in page faults;
a block is small enough to stay close to the processor and is used again and again.

On the CPU a block is as long as torch still works on with one thread: sums then come
out the same for any number of threads, and a busy machine cannot hold up every small
step at a barrier (seen: ten times slower). Callers who want several cores merge several
tensors at once; the operators keep no state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch

from evomerge.core.operators.derived import Derived
from evomerge.errors import CandidateError
from evomerge.merging.operators.inputs import NOTHING_KEPT, Inputs, Value

_BLOCK = 1 << 15
"""Elements a block on the CPU: torch's grain size, 128 KiB in fp32."""
_BLOCK_ELSEWHERE = 1 << 24
"""Elements a block on an accelerator, where starting a kernel is what costs."""


class Deltas:
    """Differences of the inputs from a base, formed in fp32, block by block.

    Without a base they are the inputs themselves.

    Args:
        tensors: The inputs, of one shape.
        base: The base, of that shape.
        multiple_of: Blocks are as many whole multiples of this; the length of a row
            keeps rows together.
        known: What was found out about them before, and where to keep more.
    """

    def __init__(
        self,
        tensors: Sequence[torch.Tensor],
        base: torch.Tensor | None,
        *,
        multiple_of: int = 1,
        known: Inputs | None = None,
    ) -> None:
        self.shape = tensors[0].shape
        self.device = tensors[0].device
        self.n = tensors[0].numel()
        self._base = None if base is None else base.reshape(-1)
        self._tensors = [tensor.reshape(-1) for tensor in tensors]
        self._pair = 2 * max(multiple_of, 1)
        self._known = known

    @classmethod
    def of(cls, inputs: Inputs, *, multiple_of: int = 1) -> Deltas:
        """Return the differences of what an operator merges, with what is known."""
        return cls(inputs.tensors, inputs.base, multiple_of=multiple_of, known=inputs)

    def __len__(self) -> int:
        return len(self._tensors)

    @property
    def is_known(self) -> bool:
        """Whether what is found out is kept."""
        return self._known is not None and self._known.memo is not NOTHING_KEPT

    def recall(
        self, kind: Derived, which: Sequence[int], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept of some inputs, by place; else compute, and keep it."""
        if self._known is None:
            return compute()
        return self._known.recall(kind, which, compute)

    def tensors(self) -> Sequence[torch.Tensor]:
        """Return the inputs, flat, as they are stored."""
        return self._tensors

    def start(self) -> torch.Tensor | None:
        """Return the base, flat, as it is stored."""
        return self._base

    def sources(self) -> tuple[torch.Tensor, ...]:
        """Return everything that is read: the inputs, then the base."""
        return (*self._tensors, *(() if self._base is None else (self._base,)))

    @property
    def block_size(self) -> int:
        """How many elements a block has on this device; an even number."""
        usual = _BLOCK if self.device.type == "cpu" else _BLOCK_ELSEWHERE
        return max(usual // self._pair, 1) * self._pair

    def blocks(self, size: int | None = None) -> Iterator[slice]:
        """Cut the flat elements into blocks, of the usual size or another."""
        size = size or self.block_size
        for low in range(0, self.n, size):
            yield slice(low, min(low + size, self.n))

    def scratch(self, size: int | None = None) -> torch.Tensor:
        """Return fp32 space for one block, uninitialised."""
        n = min(self.n, size or self.block_size)
        return torch.empty(n, dtype=torch.float32, device=self.device)

    def fresh(self) -> torch.Tensor:
        """Return an uninitialised fp32 tensor of the inputs' shape, contiguous."""
        return torch.empty(self.shape, dtype=torch.float32, device=self.device)

    def base(self, block: slice) -> torch.Tensor | None:
        """Return a block of the base in fp32; never write to it."""
        return None if self._base is None else self._base[block].to(torch.float32)

    def read(
        self, index: int, block: slice, base: torch.Tensor | None, out: torch.Tensor
    ) -> torch.Tensor:
        """Write a block of one input's difference to the start of ``out``.

        Args:
            index: Which input.
            block: Which flat elements.
            base: The same block from :meth:`base`; upcast first, so that a difference
                of two bf16 numbers is not rounded to bf16.
            out: fp32, at least as long as the block.

        Returns:
            The filled part of ``out``.
        """
        space = out[: block.stop - block.start]
        if base is None:
            return space.copy_(self._tensors[index][block])
        return torch.sub(self._tensors[index][block], base, out=space)


def stacks(
    deltas: Deltas,
) -> Iterator[tuple[slice, torch.Tensor | None, list[torch.Tensor]]]:
    """Read a block of every input at a time.

    Yields:
        The block, the base's values, and every input's difference, which may be changed
        and is overwritten by the next step.
    """
    spaces = [deltas.scratch() for _ in range(len(deltas))]
    for block in deltas.blocks():
        base = deltas.base(block)
        read = [deltas.read(i, block, base, space) for i, space in enumerate(spaces)]
        yield block, base, read


def check_finite(read: list[torch.Tensor], key: str) -> None:
    """Refuse a block of differences that are not all numbers.

    Raises:
        CandidateError: One is not; the message names the tensor.
    """
    for place, delta in enumerate(read):
        # One pass for good blocks: a sum shows what is not finite in any part of it.
        if not torch.isfinite(delta.sum()) and not torch.isfinite(delta).all():
            raise CandidateError(
                f"{key}: the difference of input {place + 1} from the base is not "
                "finite, so differences cannot be chosen by size. Leave that input "
                "out, or repair it."
            )


def total(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of flat values in fp64, the same for any number of threads."""
    if values.device.type != "cpu" or len(values) <= _BLOCK:
        return values.sum(dtype=torch.float64)
    parts = [part.sum(dtype=torch.float64) for part in values.split(_BLOCK)]
    return torch.stack(parts).sum()


def row_totals(values: torch.Tensor) -> torch.Tensor:
    """Return the sum of every row in fp64, the same for any number of threads.

    Args:
        values: Shape ``(rows, length)``.
    """
    if values.shape[1] <= _BLOCK:
        return values.sum(dim=1, dtype=torch.float64)
    return torch.stack([total(row) for row in values])
