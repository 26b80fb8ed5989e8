"""Tensors read a block at a time, so that scratch space never leaves the cache.

A fresh buffer as large as the tensor costs several times the arithmetic in page faults;
a block is small enough to stay close to the processor and is used again and again.
"""

from collections.abc import Iterator, Sequence

import torch

_BLOCK = 1 << 17
"""Elements a block on the CPU: half a megabyte in fp32, enough for two threads."""
_BLOCK_ELSEWHERE = 1 << 24
"""Elements a block on an accelerator, where starting a kernel is what costs."""


def blocks(n: int, device: torch.device) -> Iterator[slice]:
    """Cut ``n`` flat elements into the blocks that suit a device.

    Every block starts at an even element, where the random words of a mask start.
    """
    size = _BLOCK if device.type == "cpu" else _BLOCK_ELSEWHERE
    for low in range(0, n, size):
        yield slice(low, min(low + size, n))


def scratch(n: int, device: torch.device) -> torch.Tensor:
    """Return fp32 space for one block of ``n`` flat elements, uninitialised."""
    size = _BLOCK if device.type == "cpu" else _BLOCK_ELSEWHERE
    return torch.empty(min(n, size), dtype=torch.float32, device=device)


class Deltas:
    """Differences of the inputs from a base, formed in fp32, block by block.

    Without a base they are the inputs themselves.
    """

    def __init__(
        self, tensors: Sequence[torch.Tensor], base: torch.Tensor | None
    ) -> None:
        self.shape = tensors[0].shape
        self.device = tensors[0].device
        self.n = tensors[0].numel()
        self._base = None if base is None else base.reshape(-1)
        self._tensors = [tensor.reshape(-1) for tensor in tensors]

    def __len__(self) -> int:
        return len(self._tensors)

    def blocks(self) -> Iterator[slice]:
        """Cut the flat elements into blocks."""
        return blocks(self.n, self.device)

    def scratch(self) -> torch.Tensor:
        """Return fp32 space for one block."""
        return scratch(self.n, self.device)

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
