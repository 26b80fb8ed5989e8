"""What is checked of every operator, whatever it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.core.recipe import Operation
from evomerge.merging.operators import apply

Base = torch.Tensor | None


def check_threads_and_layout(
    merge: Operation, tensors: Sequence[torch.Tensor], base: Base
) -> torch.Tensor:
    """Merge on two threads, and on one from memory in another order: the same bytes.

    Returns:
        The merge.
    """
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(2)
        together = apply(merge, tensors, base, "w")
        torch.set_num_threads(1)
        strided = [_strided(tensor) for tensor in tensors]
        alone = apply(merge, strided, None if base is None else _strided(base), "w")
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(alone, together)
    assert together.is_contiguous()
    return together


def check_narrow_inputs(
    merge: Operation, tensors: Sequence[torch.Tensor], base: Base
) -> torch.Tensor:
    """Merge inputs of 16 bits, and the same numbers in 32: the same bytes.

    Returns:
        The merge of inputs in bf16.
    """
    for dtype in (torch.float16, torch.bfloat16):
        narrow = [tensor.to(dtype) for tensor in tensors]
        narrow_base = None if base is None else base.to(dtype)
        wide_base = None if narrow_base is None else narrow_base.float()
        wide = apply(merge, [tensor.float() for tensor in narrow], wide_base, "w")
        found = apply(merge, narrow, narrow_base, "w")
        assert torch.equal(found, wide)
        assert found.dtype is torch.float32
    return found


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    """Return an equal tensor whose neighbours do not lie side by side."""
    if tensor.dim() < 2:
        return tensor.repeat(2, 1).T[:, 0]
    return tensor.T.contiguous().T
