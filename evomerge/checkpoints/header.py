"""Safetensors headers, read and checked without the library.

A file is eight bytes of header length (little endian), the header as JSON, then the
tensors' bytes. Everything the header claims is compared with the file before any byte
is mapped.
"""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints.documents import MAX_BYTES, parse_json
from evomerge.errors import CheckpointError

HEADER_ALIGNMENT = 8
"""Headers are padded to a multiple of this, so the first tensor is aligned."""

HEADER_LIMIT = MAX_BYTES
"""Longest header accepted, in bytes; half a million tensors have such a one."""

MAX_AXES = 8
"""Most axes of a tensor."""
_MOST = 1 << 63
"""No number of a header may be as large: files are shorter."""

ITEM_BYTES: Mapping[str, int] = {
    "F64": 8,
    "F32": 4,
    "F16": 2,
    "BF16": 2,
    "I64": 8,
    "I32": 4,
    "I16": 2,
    "I8": 1,
    "U8": 1,
    "BOOL": 1,
}
"""Bytes of one element of each accepted type; packed and 8-bit floats are not here."""

FLOATS = frozenset({"F64", "F32", "F16", "BF16"})


class ElementTypeError(CheckpointError):
    """A weight has elements that cannot be merged: packed, whole or 8-bit numbers."""

    @classmethod
    def of(cls, file: Path, name: str, dtype: object) -> ElementTypeError:
        """Return the error for a tensor of a file."""
        return cls(
            f"{file}: tensor {name!r}: element type {dtype!r} cannot be merged; "
            f"expected one of {', '.join(sorted(FLOATS))}."
        )


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """Where a stored tensor lies.

    Attributes:
        dtype: Safetensors name, for example ``BF16``.
        file: File that holds it.
        offset: First byte, counted from the start of the file.
        nbytes: Its length.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    file: Path
    offset: int
    nbytes: int

    @property
    def is_float(self) -> bool:
        """Whether the elements are numbers that can be merged."""
        return self.dtype in FLOATS


def read_header(file: Path) -> dict[str, TensorInfo]:
    """Read which tensors a safetensors file holds, in the order of their bytes.

    Raises:
        CheckpointError: The file is missing, truncated, corrupt or of a type that
            cannot be merged; the message names the file and what is wrong.
    """
    entries, data_start, size = _entries(file)
    tensors = [
        _tensor(file, name, entry, data_start)
        for name, entry in entries.items()
        if name != "__metadata__"
    ]
    tensors.sort(key=lambda tensor: (tensor.offset, tensor.nbytes))
    _check_coverage(file, tensors, data_start, size)
    return {tensor.name: tensor for tensor in tensors}


def read_metadata(file: Path) -> dict[str, str]:
    """Read what a safetensors file says of itself; nothing if it says nothing.

    Raises:
        CheckpointError: As for :func:`read_header`.
    """
    said = _entries(file)[0].get("__metadata__")
    return {k: str(v) for k, v in said.items()} if isinstance(said, dict) else {}


def _entries(file: Path) -> tuple[dict[str, Any], int, int]:
    """Return the header, where the tensors begin, and how long the file is."""
    try:
        size = file.stat().st_size
        with file.open("rb") as stream:
            data_start, text = _header_text(file, stream.read(8), size, stream.read)
    except OSError as error:
        raise CheckpointError(f"{file}: cannot be read: {error.strerror}.") from error
    return _parse(file, text), data_start, size


def _header_text(file: Path, prefix: bytes, size: int, read: Any) -> tuple[int, bytes]:
    if len(prefix) < 8:
        raise CheckpointError(
            f"{file}: is {size} bytes long, too short for a safetensors file. "
            "Download it again."
        )
    (length,) = struct.unpack("<Q", prefix)
    if length > HEADER_LIMIT:
        raise CheckpointError(
            f"{file}: claims a header of {length} bytes, more than the limit of "
            f"{HEADER_LIMIT}; it is not a safetensors file or is corrupt."
        )
    if 8 + length > size:
        raise CheckpointError(
            f"{file}: is truncated: the header needs {8 + length} bytes, the file has "
            f"{size}. Download it again."
        )
    return 8 + length, read(length)


def _parse(file: Path, text: bytes) -> dict[str, Any]:
    try:
        entries = parse_json(text, unique=True)
    except ValueError as error:
        raise CheckpointError(
            f"{file}: the header is not valid JSON ({error}); the file is corrupt. "
            "Download it again."
        ) from error
    if not isinstance(entries, dict):
        raise CheckpointError(
            f"{file}: the header is a {type(entries).__name__}, expected an object; "
            "the file is corrupt. Download it again."
        )
    return entries


def _tensor(file: Path, name: str, entry: Any, data_start: int) -> TensorInfo:
    where = f"{file}: tensor {name!r}"
    try:
        dtype, shape = entry["dtype"], entry["shape"]
        start, end = entry["data_offsets"]
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{where}: expected dtype, shape and data_offsets, got {entry!r}; the "
            "header is corrupt."
        ) from error
    if not isinstance(dtype, str) or dtype not in ITEM_BYTES:
        raise ElementTypeError.of(file, name, dtype)
    axes = shape if isinstance(shape, list) and len(shape) <= MAX_AXES else [None]
    if not all(type(n) is int and 0 <= n < _MOST for n in (*axes, start, end)):
        raise CheckpointError(
            f"{where}: shape {shape!r} or offsets {[start, end]!r} are "
            f"not whole numbers from 0 up, {MAX_AXES} axes at most; the header is "
            "corrupt."
        )
    expected = math.prod(shape) * ITEM_BYTES[dtype]
    if end - start != expected:
        raise CheckpointError(
            f"{where}: {dtype} of shape {shape} needs {expected} bytes, but offsets "
            f"{[start, end]} give {end - start}; the header is corrupt."
        )
    return TensorInfo(name, dtype, tuple(shape), file, data_start + start, expected)


def _check_coverage(
    file: Path, tensors: list[TensorInfo], data_start: int, size: int
) -> None:
    """Tensors must lie end to end, without gap or overlap, up to the file's end."""
    position = data_start
    for tensor in tensors:
        if tensor.offset != position:
            raise CheckpointError(
                f"{file}: tensor {tensor.name!r} starts at byte {tensor.offset}, "
                f"expected {position}: tensors overlap or leave a gap; the header is "
                "corrupt."
            )
        position += tensor.nbytes
    if position > size:
        raise CheckpointError(
            f"{file}: is truncated: the tensors need {position} bytes, the file has "
            f"{size}. Download it again."
        )
    if position < size:
        raise CheckpointError(
            f"{file}: has {size - position} bytes that belong to no tensor; the file "
            "is corrupt."
        )
