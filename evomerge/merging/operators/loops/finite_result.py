"""Whether every entry is a number: asked of merges that no single loop has written."""

import math

import torch

from evomerge.core.recipes.operation import Operation
from evomerge.errors import CandidateError
from evomerge.merging.operators.loops.arrays import as_array, is_plain
from evomerge.merging.operators.loops.parallel import SMALL, over_entries


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
    from evomerge.merging.kernels.norms import is_any_infinite

    array = as_array(tensor)
    return over_entries(
        lambda low, high: int(is_any_infinite(array[low:high])), tensor.numel()
    )
