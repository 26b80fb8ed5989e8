"""What is checked of every operator, whatever it computes."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.core.recipes.recipe import Operation
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


def barely_outstanding(base: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """Tell which entries Arcee Fusion cannot decide in fp32, worked out in fp64.

    Softmax and logarithm are rounded otherwise on other processors. A row's divergence
    is a small sum of terms that are rounded like its probabilities; on either side of
    the threshold an entry of such a row is right.

    Returns:
        A mask of the inputs' shape, True for one entry in a hundred at most.
    """
    rows = base.shape[-1]
    z, x = (tensor.double().reshape(-1, rows) for tensor in (base, other))
    p, q = (logits.softmax(1) + 1e-8 for logits in (x, z))
    divergence = (p * (p / q).log()).sum(1, keepdim=True)
    importance = (x - z).abs() * divergence
    ranked = importance.flatten().sort().values
    low, middle, high = (ranked[int(s * (len(ranked) - 1))] for s in (0.25, 0.5, 0.75))
    threshold = middle + 1.5 * (high - low)
    near = (importance / threshold - 1).abs() <= 2.0**-20 / divergence
    assert near.sum() <= max(1, near.numel() / 100)
    return near.reshape(base.shape)


def _strided(tensor: torch.Tensor) -> torch.Tensor:
    """Return an equal tensor whose neighbours do not lie side by side."""
    if tensor.dim() < 2:
        return tensor.repeat(2, 1).T[:, 0]
    return tensor.T.contiguous().T
