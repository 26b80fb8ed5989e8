"""Parents on disk as tensors: memory-mapped, read-only, found by fingerprint.

A parent is opened when it is first asked for, and only if its content still has the
fingerprint it is asked for by. Nothing is copied: tensors are windows into the page
cache, shared by every process of a machine.
"""

from __future__ import annotations

import math
import mmap
import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

import numpy as np
import torch

from evomerge.checkpoints import Model, TensorInfo, read_model
from evomerge.checkpoints.adapters.adapter import Adapter, read_adapter
from evomerge.checkpoints.statistics import StatisticsFile, read_statistics
from evomerge.errors import CheckpointError
from evomerge.merging.derived_data import FOLDER, DerivedData
from evomerge.merging.devices import Placement, place
from evomerge.merging.operators.inputs import NOTHING_KEPT, Memo

TORCH_DTYPES: Mapping[str, torch.dtype] = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class Space(Protocol):
    """Gives memory for a result."""

    def __call__(self, shape: Sequence[int], *, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor on the device."""


Stamps = dict[Path, tuple[int, int, int] | None]
"""Per file: size, modification time and inode; None where it is gone."""


class Sources:
    """The parents a process can read, by fingerprint.

    A context manager; ``close`` lets go of the mappings, which live on while a tensor
    taken from them does. One instance serves one thread at a time.
    """

    def __init__(
        self,
        paths: Mapping[str, str | Path],
        *,
        cache_dir: str | Path | None = None,
        device: str = "cpu",
    ) -> None:
        """Remember where parents lie; nothing is opened yet.

        Args:
            paths: Fingerprint to the folder of a model or an adapter, or to a file of
                statistics.
            cache_dir: Where fingerprints, and data derived from the sources, are kept
                between processes, if anywhere.
            device: Where merges are computed, as torch names it. Sources are brought
                there for good if they fit, else each time from pinned memory or file.
        """
        self.device = torch.device(device)
        self._placement: Placement | None = None
        self._paths = dict(paths)
        self._cache_dir = cache_dir
        self._models: dict[str, Model] = {}
        self._adapters: dict[str, Adapter] = {}
        self._statistics: dict[str, StatisticsFile] = {}
        self._stamps: dict[str, Stamps] = {}
        self._files: dict[Path, torch.Tensor] = {}
        self._tensors: dict[tuple[str, str], torch.Tensor] = {}
        self._space = torch.empty(0, dtype=torch.uint8, device=self.device)
        self.derived: Memo = NOTHING_KEPT
        """What is kept of the sources from one candidate to the next."""
        if cache_dir is not None:
            self.derived = DerivedData(Path(cache_dir) / FOLDER, device=self.device)
        self.views: dict[str, Any] = {}
        """What readers worked out about a parent and want to keep, by fingerprint."""

    def __enter__(self) -> Sources:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Forget every mapping; idempotent."""
        self._space = torch.empty(0, dtype=torch.uint8, device=self.device)
        self.views.clear()
        self._tensors.clear()
        self._files.clear()
        self._models.clear()
        self._adapters.clear()
        self._statistics.clear()
        self._stamps.clear()

    def model(self, fingerprint: str) -> Model:
        """Return what is known of a parent, opening it if need be.

        Raises:
            CheckpointError: No folder is known for it, the folder is broken, or its
                content changed since the fingerprint was taken.
        """
        if found := self._models.get(fingerprint):
            return found
        path = self._path(fingerprint)
        model = read_model(path, cache_dir=self._cache_dir, unknown=True)
        _check_content(path, fingerprint, model.fingerprint)
        self._models[fingerprint] = model
        self._stamps[fingerprint] = _stamps(model)
        return model

    def adapter(self, fingerprint: str) -> Adapter:
        """Return what is known of an adapter, opening it if need be.

        Raises:
            CheckpointError: As for ``model``.
        """
        if found := self._adapters.get(fingerprint):
            return found
        path = self._path(fingerprint)
        adapter = read_adapter(path, cache_dir=self._cache_dir)
        _check_content(path, fingerprint, adapter.fingerprint)
        self._adapters[fingerprint] = adapter
        self._stamps[fingerprint] = _stamps(adapter)
        return adapter

    def statistics(self, fingerprint: str, kind: str) -> StatisticsFile:
        """Return what is known of a file of statistics, opening it if need be.

        Raises:
            CheckpointError: As for ``model``.
        """
        if found := self._statistics.get(fingerprint):
            return found
        path = self._path(fingerprint)
        found = read_statistics(path, kind, cache_dir=self._cache_dir)
        _check_content(path, fingerprint, found.fingerprint)
        self._statistics[fingerprint] = found
        self._stamps[fingerprint] = _stamps(found)
        return found

    def _path(self, fingerprint: str) -> str | Path:
        path = self._paths.get(fingerprint)
        if path is None:
            raise CheckpointError(
                f"No folder is known for the source with fingerprint {fingerprint!r}; "
                f"known are {sorted(self._paths)}. Name its folder among the sources."
            )
        return path

    def check_unchanged(self, fingerprint: str) -> None:
        """Make sure that an open source's files are still those that were verified.

        Takes microseconds: sizes and times are compared, not contents.

        Raises:
            CheckpointError: A file was replaced, rewritten or removed.
        """
        opened = (
            self._adapters.get(fingerprint)
            or self._statistics.get(fingerprint)
            or self.model(fingerprint)
        )
        if _stamps(opened) != self._stamps[fingerprint]:
            raise CheckpointError(
                f"{opened.path}: changed while it was in use. Restore the folder and "
                "start the worker again."
            )

    def tensor(self, fingerprint: str, name: str) -> torch.Tensor:
        """Return a parent's tensor as stored, on the device; never write into it.

        On a CPU nothing is copied, and the memory is read-only: writing into it ends
        the process.

        Raises:
            CheckpointError: The parent cannot be opened, or has no such tensor.
        """
        key = (fingerprint, name)
        found = self._tensors.get(key)
        if found is None:
            model = self.model(fingerprint)
            if name not in model.tensors:
                raise CheckpointError(f"{model.path}: has no tensor {name!r}.")
            found = self._tensors[key] = self._placed(model.tensors[name])
        return found.to(self.device, non_blocking=True)

    def _placed(self, info: TensorInfo) -> torch.Tensor:
        """Return a tensor where sources lie."""
        window = self._window(info)
        if self.device.type == "cpu":
            return window
        if self._placement is None:
            size = sum(self.model(one).size_bytes for one in self._models)
            self._placement = place(size, self.device)
        if self._placement == "gpu":
            return window.to(self.device)
        return window.pin_memory() if self._placement == "pinned" else window

    def adapter_tensor(self, fingerprint: str, name: str) -> torch.Tensor:
        """Return an adapter's tensor as stored, by its name in the file.

        Raises:
            CheckpointError: The adapter cannot be opened.
        """
        return self._read(fingerprint, self.adapter(fingerprint).tensors[name])

    def measured(self, file: StatisticsFile, name: str) -> torch.Tensor:
        """Return what was measured of a tensor, on the device; never write into it."""
        return self._read(file.fingerprint, file.tensors[name]).to(self.device)

    def _read(self, fingerprint: str, info: TensorInfo) -> torch.Tensor:
        key = (fingerprint, info.name)
        if key not in self._tensors:
            self._tensors[key] = self._window(info)
        return self._tensors[key]

    def fresh(self, shape: Sequence[int], *, dtype: torch.dtype) -> torch.Tensor:
        """Return an uninitialised tensor in new memory."""
        return torch.empty(tuple(shape), dtype=dtype, device=self.device)

    def space(self, shape: Sequence[int], *, dtype: torch.dtype) -> torch.Tensor:
        """Return a part of the one space kept for results; the next call reuses it.

        New memory costs several times the arithmetic in page faults.
        """
        n_bytes = math.prod(shape) * dtype.itemsize
        if len(self._space) < n_bytes:
            self._space = _room(n_bytes, self.device)
        return self._space[:n_bytes].view(dtype).view(tuple(shape))

    def _window(self, info: TensorInfo) -> torch.Tensor:
        if info.file not in self._files:
            self._files[info.file] = _map(info.file)
        dtype = TORCH_DTYPES[info.dtype]
        raw = self._files[info.file][info.offset : info.offset + info.nbytes]
        if info.offset % dtype.itemsize:
            # Foreign writers may pack mixed types without alignment.
            raw = raw.clone()
        return raw.view(dtype).view(info.shape)


def _room(n_bytes: int, device: torch.device) -> torch.Tensor:
    """Return uninitialised memory, uint8."""
    if device.type != "cpu":
        return torch.empty(n_bytes, dtype=torch.uint8, device=device)
    # numpy asks the system for huge pages, torch does not: filling them takes half the
    # time.
    return torch.from_numpy(np.empty(n_bytes, dtype=np.uint8))


def _check_content(path: str | Path, expected: str, found: str) -> None:
    if found != expected:
        raise CheckpointError(
            f"{path}: changed since it was recorded: expected fingerprint {expected}, "
            f"found {found}. Restore the folder, or start a new study with what it is "
            "now."
        )


def _stamps(opened: Model | Adapter | StatisticsFile) -> Stamps:
    out: Stamps = {}
    for file in {info.file for info in opened.tensors.values()}:
        try:
            stat = file.stat()
        except OSError:
            out[file] = None
        else:
            out[file] = (stat.st_size, stat.st_mtime_ns, stat.st_ino)
    return out


def _map(file: Path) -> torch.Tensor:
    with file.open("rb") as stream:
        mapping = mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ)
    with warnings.catch_warnings():
        # torch has no read-only tensors and says so; nothing here writes.
        warnings.filterwarnings("ignore", message="The given buffer is not writable")
        return torch.frombuffer(mapping, dtype=torch.uint8)
