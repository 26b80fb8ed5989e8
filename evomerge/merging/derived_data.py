"""What was found out about sources and does not depend on a candidate, kept on disk.

Cuts of differences by size, ranks, dot products and singular vectors are computed once
for an input and a base and found again by what they were computed from: by content, not
by path. The folder can be deleted at any time.
"""

from __future__ import annotations

import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from evomerge.core.digest import digest
from evomerge.core.operators.derived import Derived
from evomerge.merging.form import Cut
from evomerge.merging.operators.directions.knots import Shared
from evomerge.merging.operators.directions.singular_vectors import Svd
from evomerge.merging.operators.inputs import Memo, Value
from evomerge.merging.operators.sums.variances import Selections
from evomerge.merging.operators.thresholds.magnitude_thresholds import Cuts

FOLDER = "statistics"
RAM_BYTES = 512 << 20
"""How much is also kept in memory, beside what lies in mapped files."""
_LARGE = 1 << 20
"""A value of this size is left to its file once it is written."""
_VERSION = 3
"""Part of every name: raise it when what is computed changes."""
_SPARE = 4
"""A value is only written if the disk has this many times its size left, and 1 GB."""
_FORMS: Mapping[str, type] = {
    form.__name__: form for form in (Cut, Cuts, Selections, Shared, Svd)
}


class DerivedData:
    """A memo on disk, with a part of it in memory; safe to use from several threads.

    Several processes may share a folder: what is written there is written whole.
    """

    def __init__(
        self,
        folder: Path | None,
        ram_bytes: int = RAM_BYTES,
        device: torch.device | None = None,
    ) -> None:
        """Open a folder, which need not exist.

        Args:
            folder: None keeps everything in memory.
            ram_bytes: How much is kept in memory.
            device: Where tensors are wanted; the CPU if not given.
        """
        self._folder = folder
        self._device = str(device or "cpu")
        self._limit = ram_bytes
        self._kept: OrderedDict[str, tuple[Any, int]] = OrderedDict()
        self._held = 0
        self._lock = threading.Lock()

    def recall(
        self, kind: Derived, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept under this name, computing it the first time."""
        name = digest([_VERSION, kind.name, *kind.of, *what])
        with self._lock:
            if name in self._kept:
                self._kept.move_to_end(name)
                found: Value = self._kept[name][0]
                return found
        lasting = kind.lasts and self._folder is not None
        value = self._load(name) if lasting else None
        is_file = value is not None
        if value is None:
            value = compute()
            if lasting:
                self._save(name, value)
                if _size(value) >= _LARGE:  # the file's pages serve as well
                    stored = self._load(name)
                    is_file = stored is not None
                    value = stored if is_file else value
        # On the CPU what is read from a file stays there: it takes no memory that
        # others could not have back.
        held = 0 if is_file and self._device == "cpu" else _size(value)
        self._keep(name, value, held)
        return value

    def _keep(self, name: str, value: object, held: int) -> None:
        with self._lock:
            if name in self._kept:  # another thread was faster
                return
            self._kept[name] = value, held
            self._held += held
            while self._held > self._limit and len(self._kept) > 1:
                _, (_, freed) = self._kept.popitem(last=False)
                self._held -= freed

    def _file(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / name[:2] / f"{name}.safetensors"

    def _load(self, name: str) -> Any:
        """Read a value; what cannot be read is computed again."""
        file = self._file(name)
        with suppress(Exception):
            if file.is_file():
                with safe_open(file, framework="pt", device=self._device) as stored:
                    tree = json.loads(stored.metadata()["tree"])
                    return _unpack(tree, stored.get_tensor)
        return None

    def _save(self, name: str, value: object) -> None:
        """Write a value; a full or read-only disk costs time, nothing else."""
        tensors: dict[str, torch.Tensor] = {}
        tree = json.dumps(_pack(value, tensors))
        file = self._file(name)
        partial = file.with_suffix(f".{os.getpid()}-{threading.get_ident()}")
        # The library has an error of its own for what the disk refuses.
        with suppress(OSError, SafetensorError):
            file.parent.mkdir(parents=True, exist_ok=True)
            if shutil.disk_usage(file.parent).free < _SPARE * _size(value) + 10**9:
                return
            save_file(tensors, partial, metadata={"tree": tree})
            partial.replace(file)
        with suppress(OSError):
            partial.unlink()


@dataclass(frozen=True, slots=True)
class Scoped:
    """A memo for one tensor of a merge, where inputs go by what they hold.

    Attributes:
        memo: Where things are kept.
        identities: Name of an input to what it holds.
    """

    memo: Memo
    identities: Mapping[str, str]

    def recall(
        self, kind: Derived, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept under this name, computing it the first time."""
        key, base, *inputs = what
        origin = None if base is None else self.identities[base]
        names = (self.identities[str(name)] for name in inputs)
        return self.memo.recall(kind, (key, origin, *names), compute)


def _pack(value: object, tensors: dict[str, torch.Tensor]) -> Any:
    """Turn a value into plain data and tensors beside it."""
    if isinstance(value, torch.Tensor):
        name = f"t{len(tensors)}"
        # A view may share memory with another one, which the file format refuses.
        tensors[name] = value.detach().contiguous().clone()
        return {"tensor": name}
    if type(value).__name__ in _FORMS:
        parts = (
            {f.name: getattr(value, f.name) for f in fields(value)}
            if is_dataclass(value)
            else value._asdict()  # type: ignore[attr-defined] # a named tuple
        )
        packed = {name: _pack(part, tensors) for name, part in parts.items()}
        return {"form": type(value).__name__, "parts": packed}
    if isinstance(value, tuple):
        return [_pack(part, tensors) for part in value]
    assert value is None or isinstance(value, bool | int | float | str)
    return {"plain": value}


def _unpack(tree: Any, tensor: Callable[[str], torch.Tensor]) -> Any:
    if isinstance(tree, list):
        return tuple(_unpack(part, tensor) for part in tree)
    if "tensor" in tree:
        return tensor(tree["tensor"])
    if "form" in tree:
        parts = {name: _unpack(part, tensor) for name, part in tree["parts"].items()}
        return _FORMS[tree["form"]](**parts)
    return tree["plain"]


def _size(value: object) -> int:
    """Return how many bytes the tensors of a value take."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, tuple):
        return sum(_size(part) for part in value)
    if is_dataclass(value):
        return sum(_size(getattr(value, f.name)) for f in fields(value))
    return 64
