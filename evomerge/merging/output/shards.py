"""Safetensors files written as a stream, tensor by tensor.

Shapes and types are known before the first merge, so a header can be written first and
no more than one tensor is held. The bytes are what the safetensors library would read.
"""

import json
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import torch

from evomerge.checkpoints import HEADER_ALIGNMENT
from evomerge.merging.sources import TORCH_DTYPES

Shape = tuple[torch.dtype, tuple[int, ...]]
"""Element type and dimensions."""

_NAMES = {dtype: name for name, dtype in TORCH_DTYPES.items()}


@dataclass(frozen=True, slots=True)
class Shard:
    """One file of a model.

    Attributes:
        name: File name.
        tensors: Tensor name to type and shape, in the order of their bytes.
    """

    name: str
    tensors: Mapping[str, Shape]

    @property
    def size_bytes(self) -> int:
        """Bytes of the tensors, without the header."""
        return sum(tensor_bytes(shape) for shape in self.tensors.values())


def tensor_bytes(shape: Shape) -> int:
    """Return how many bytes a tensor takes."""
    return torch.Size(shape[1]).numel() * shape[0].itemsize


def plan_shards(tensors: Mapping[str, Shape], shard_bytes: int) -> tuple[Shard, ...]:
    """Cut a model into files of at most ``shard_bytes``, in order.

    A tensor larger than that gets a file of its own.
    """
    groups: list[dict[str, Shape]] = [{}]
    filled = 0
    for name, shape in tensors.items():
        size = tensor_bytes(shape)
        if groups[-1] and filled + size > shard_bytes:
            groups.append({})
            filled = 0
        groups[-1][name] = shape
        filled += size
    n = len(groups)
    if n == 1:
        return (Shard("model.safetensors", groups[0]),)
    return tuple(
        Shard(f"model-{index:05d}-of-{n:05d}.safetensors", group)
        for index, group in enumerate(groups, start=1)
    )


def index_json(shards: tuple[Shard, ...]) -> str:
    """Return the text of ``model.safetensors.index.json``."""
    index = {
        "metadata": {"total_size": sum(shard.size_bytes for shard in shards)},
        "weight_map": {name: shard.name for shard in shards for name in shard.tensors},
    }
    return json.dumps(index, indent=2, sort_keys=True) + "\n"


def write_shard(
    file: Path, shard: Shard, stream: Iterator[tuple[str, torch.Tensor]]
) -> Iterator[int]:
    """Write one file, taking exactly the shard's tensors from the stream.

    Yields:
        Bytes of each tensor once it is written. The file is complete, and on disk, when
        the iterator ends.

    Raises:
        OSError: The disk refuses.
    """
    with file.open("xb") as out:
        out.write(_header(shard))
        for expected, shape in shard.tensors.items():
            name, tensor = next(stream)
            assert (name, tensor.dtype, tuple(tensor.shape)) == (expected, *shape)
            yield _write(out, tensor)
        out.flush()
        os.fsync(out.fileno())


def _header(shard: Shard) -> bytes:
    entries: dict[str, object] = {"__metadata__": {"format": "pt"}}
    position = 0
    for name, (dtype, dims) in shard.tensors.items():
        end = position + tensor_bytes((dtype, dims))
        entries[name] = {
            "dtype": _NAMES[dtype],
            "shape": list(dims),
            "data_offsets": [position, end],
        }
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % HEADER_ALIGNMENT)
    return struct.pack("<Q", len(text)) + text


def _write(out: BinaryIO, tensor: torch.Tensor) -> int:
    data = tensor.cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data
    out.write(data)
    return data.nbytes
