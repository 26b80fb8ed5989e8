"""Find weights that are no numbers, before anything is computed with them."""

from __future__ import annotations

import json
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge.checkpoints.adapters.adapter import Adapter
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.model import Model

_CHUNK = 1 << 22  # elements looked at together: bounded memory for any tensor
_EXPONENT = {"BF16": np.uint16(0x7F80), "F16": np.uint16(0x7C00)}


def non_finite(model: Model, cache_dir: Path | None = None) -> tuple[str, ...]:
    """Return the names of float tensors that hold NaN or infinity, in name order.

    Args:
        model: A checked model folder; the tensors of its adapter count too.
        cache_dir: Where the answer is remembered by fingerprint, if anywhere.
    """
    found = _non_finite(model, cache_dir)
    return (
        found
        if model.adapter is None
        else found + _non_finite(model.adapter, cache_dir)
    )


def _non_finite(model: Model | Adapter, cache_dir: Path | None) -> tuple[str, ...]:
    memo = None if cache_dir is None else cache_dir / f"finite-{model.fingerprint}.json"
    if memo is not None and (known := _load(memo)) is not None:
        return known
    found = tuple(
        name for name in sorted(model.tensors) if _is_bad(model.tensors[name])
    )
    if memo is not None:
        _save(memo, found)
    return found


def _load(memo: Path) -> tuple[str, ...] | None:
    """Read an earlier answer; an unreadable one is worked out again."""
    try:
        names = json.loads(memo.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    if isinstance(names, list) and all(isinstance(name, str) for name in names):
        return tuple(names)
    return None


def _save(memo: Path, names: tuple[str, ...]) -> None:
    partial = memo.with_suffix(f".{os.getpid()}")
    # A cache that cannot be written costs time at the next start, nothing else.
    with suppress(OSError):
        memo.parent.mkdir(parents=True, exist_ok=True)
        partial.write_text(json.dumps(names), encoding="utf-8")
        partial.replace(memo)


def _is_bad(info: TensorInfo) -> bool:
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
