"""Find weights that are no numbers, before anything is computed with them."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.model import Model

_CHUNK = 1 << 22  # elements looked at together: bounded memory for any tensor
_EXPONENT = {"BF16": np.uint16(0x7F80), "F16": np.uint16(0x7C00)}


def non_finite(model: Model, cache_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names of float tensors that hold NaN or infinity, in name order.

    Args:
        model: A checked model folder.
        cache_dir: Where the answer is remembered by fingerprint, if anywhere.
    """
    memo = None if cache_dir is None else cache_dir / f"finite-{model.fingerprint}.json"
    if memo is not None and memo.is_file():
        return tuple(json.loads(memo.read_text()))
    found = tuple(
        name for name in sorted(model.tensors) if _is_bad(model, model.tensors[name])
    )
    if memo is not None:
        memo.parent.mkdir(parents=True, exist_ok=True)
        partial = memo.with_suffix(f".{os.getpid()}")
        partial.write_text(json.dumps(found))
        partial.replace(memo)
    return found


def _is_bad(model: Model, info: TensorInfo) -> bool:
    if info.nbytes == 0 or info.dtype not in ("F32", "F64", *_EXPONENT):
        return False
    kind = {"F32": "<f4", "F64": "<f8"}.get(info.dtype, "<u2")
    values: npt.NDArray[Any] = np.memmap(
        info.file,
        dtype=np.dtype(kind),
        mode="r",
        offset=info.offset,
        shape=(info.nbytes // np.dtype(kind).itemsize,),
    )
    mask = _EXPONENT.get(info.dtype)
    for start in range(0, len(values), _CHUNK):
        chunk = values[start : start + _CHUNK]
        if mask is None:
            if not np.isfinite(chunk).all():
                return True
        elif ((chunk & mask) == mask).any():  # all exponent bits set
            return True
    return False
