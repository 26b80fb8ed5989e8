"""A low-rank adapter as a value: everything but the numbers themselves.

An adapter is a folder that PEFT saved: ``adapter_config.json`` and
``adapter_model.safetensors``. Which tensor of the base each part changes follows from
the names; every part must find its tensor, and fit it, before anything is merged.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from types import MappingProxyType

from evomerge.checkpoints.adapters.adapter_config import (
    ADAPTER_CONFIG,
    AdapterConfig,
    read_adapter_config,
)
from evomerge.checkpoints.documents import refuse_links_out
from evomerge.checkpoints.fingerprint import fingerprint
from evomerge.checkpoints.header import TensorInfo, read_header
from evomerge.checkpoints.weights import PICKLES
from evomerge.errors import CheckpointError

ADAPTER_WEIGHTS = "adapter_model.safetensors"

_WRAPPER = "base_model.model."
_FACTOR = re.compile(r"(.+)\.lora_(A|B)(?:\.default)?\.weight")
_EMBEDDING_FACTOR = re.compile(r"(.+)\.lora_embedding_(A|B)(?:\.default)?")
_WHOLE = re.compile(r"\.(?:base_layer|modules_to_save\.default|modules_to_save)\.")


@dataclass(frozen=True, slots=True)
class Factors:
    """A pair of factors: the base's tensor gets ``scale * (b @ a)`` added.

    Attributes:
        a: Shape (rank, in).
        b: Shape (out, rank).
        is_embedding: The product is transposed: rows of the tensor are tokens.
        may_transpose: Likewise wherever that fits: the base stores ``(in, out)``.
    """

    a: TensorInfo
    b: TensorInfo
    scale: float
    is_embedding: bool = False
    may_transpose: bool = False

    def is_transposed(self, shape: tuple[int, ...]) -> bool:
        """Tell whether the product is turned over for a tensor of this shape."""
        turned = (self.a.shape[1], self.b.shape[0])
        return self.is_embedding or (self.may_transpose and turned == shape)

    def shape_for(self, shape: tuple[int, ...]) -> tuple[int, int]:
        """Return the shape of what is added to a tensor of this shape."""
        out, width = self.b.shape[0], self.a.shape[1]
        return (width, out) if self.is_transposed(shape) else (out, width)


@dataclass(frozen=True)
class Adapter:
    """A checked adapter folder.

    Attributes:
        path: The folder.
        fingerprint: Name of its content: configuration and weights.
        factors: Name of the changed tensor, as the adapter writes it, to its factors.
        whole: Likewise, to a trained tensor that takes its place.
        base: What it says it was trained on; a name, not checked.
        origin: The hub id and commit it was fetched by; None for a folder.
    """

    path: Path
    fingerprint: str
    factors: Mapping[str, Factors]
    whole: Mapping[str, TensorInfo]
    base: str = ""
    origin: str | None = None

    @cached_property
    def tensors(self) -> Mapping[str, TensorInfo]:
        """Every tensor of the adapter, by its name in the file."""
        pairs = [info for pair in self.factors.values() for info in (pair.a, pair.b)]
        return {info.name: info for info in (*pairs, *self.whole.values())}


@dataclass(frozen=True)
class Folding:
    """An adapter laid over a base: what changes which tensor.

    Attributes:
        factors: Name of a tensor of the base to the factors added to it.
        whole: Likewise, to the tensor that takes its place.
        unties: The base's head is its embedding, but the adapter was trained with the
            two told apart.
    """

    factors: Mapping[str, Factors]
    whole: Mapping[str, TensorInfo]
    unties: bool


def read_adapter(path: str | Path, *, cache_dir: str | Path | None = None) -> Adapter:
    """Read and check an adapter folder without loading its weights.

    Args:
        path: A folder with ``adapter_config.json`` and ``adapter_model.safetensors``.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.

    Raises:
        CheckpointError: The folder is missing, incomplete, corrupt, holds only a
            pickle file, or an adapter of a kind that cannot be folded.
    """
    folder = Path(path)
    if not folder.is_dir():
        what = "is a file, not a folder" if folder.exists() else "does not exist"
        raise CheckpointError(
            f"{folder}: {what}. Give the folder of an adapter saved by PEFT."
        )
    if not (folder / ADAPTER_CONFIG).is_file():
        raise CheckpointError(
            f"{folder}: has no {ADAPTER_CONFIG}, so it is no adapter. After the + "
            "belongs the folder of an adapter saved by PEFT."
        )
    refuse_links_out(folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS))
    config = read_adapter_config(folder)
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise CheckpointError(_explain_nothing(folder))
    tensors = read_header(folder / ADAPTER_WEIGHTS)
    factors, whole = _sort_out(folder, config, tensors)
    memo = None if cache_dir is None else Path(cache_dir)
    return Adapter(
        path=folder,
        fingerprint=fingerprint(folder, (ADAPTER_CONFIG, ADAPTER_WEIGHTS), memo),
        factors=MappingProxyType(factors),
        whole=MappingProxyType(whole),
        base=config.base,
    )


def _sort_out(
    folder: Path, config: AdapterConfig, tensors: Mapping[str, TensorInfo]
) -> tuple[dict[str, Factors], dict[str, TensorInfo]]:
    """Tell pairs of factors from whole tensors."""
    halves: dict[tuple[str, bool], dict[str, TensorInfo]] = {}
    whole: dict[str, TensorInfo] = {}
    for name, info in tensors.items():
        if not info.is_float:
            raise CheckpointError(
                f"{folder}: tensor {name!r} holds {info.dtype}, expected floating "
                "point. Use the unquantised adapter."
            )
        plain = name.removeprefix(_WRAPPER)
        if match := _FACTOR.fullmatch(plain):
            halves.setdefault((match[1], False), {})[match[2]] = info
        elif match := _EMBEDDING_FACTOR.fullmatch(plain):
            halves.setdefault((match[1], True), {})[match[2]] = info
        elif "lora_" in plain:
            raise CheckpointError(
                f"{folder}: tensor {name!r} is no part of a plain LoRA. Merge this "
                "adapter with PEFT and give the merged model."
            )
        else:
            whole[_WHOLE.sub(".", plain)] = info
    if not halves and not whole:
        raise CheckpointError(f"{folder}: the adapter holds no tensor.")
    factors = {
        f"{module}.weight": _pair(folder, config, module, pair, is_embedding)
        for (module, is_embedding), pair in halves.items()
    }
    return factors, whole


def _pair(
    folder: Path,
    config: AdapterConfig,
    module: str,
    found: Mapping[str, TensorInfo],
    is_embedding: bool,
) -> Factors:
    if len(found) != 2:
        (info,) = found.values()
        raise CheckpointError(
            f"{folder}: has {info.name!r} without its counterpart. Download it again."
        )
    a, b = found["A"], found["B"]
    rank = config.rank_of(module)
    if len(a.shape) != 2 or len(b.shape) != 2 or not a.shape[0] == b.shape[1] == rank:
        raise CheckpointError(
            f"{folder}: {a.name!r} has shape {list(a.shape)} and its counterpart "
            f"{list(b.shape)}; expected (rank, in) and (out, rank) with the rank "
            f"{rank} of {ADAPTER_CONFIG}. The files do not belong together."
        )
    if rank > max(a.shape[1], b.shape[0]):
        raise CheckpointError(
            f"{folder}: {a.name!r} has rank {rank}, more than either side of the "
            f"tensor it changes ({b.shape[0]} and {a.shape[1]}); no training makes "
            "such a one. The files are corrupt: download them again."
        )
    return Factors(a, b, config.scale_of(module), is_embedding, config.transposed)


def _explain_nothing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"{folder}: holds the adapter only as {pickles[0]!r}, a pickle file. "
            "Loading a pickle can run any code its author put in, so it is refused. "
            "Save it again with PEFT, which writes safetensors, where you trust its "
            "author."
        )
    return f"{folder}: has no {ADAPTER_WEIGHTS}. Download the adapter completely."
