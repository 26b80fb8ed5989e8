"""Which files hold a model's weights, and which are refused: pickles, quantised ones.

Quantised weights are told from stored tensors, and named as what they are.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from evomerge.checkpoints.documents import read_json, refuse_links_out
from evomerge.checkpoints.header import TensorInfo, read_header
from evomerge.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")

KEYS = ("quantization_config", "compression_config")
"""Keys of ``config.json`` that say how weights are packed."""

_PACKED = (
    ("bitsandbytes in 4 bits", r".*\.(absmax|quant_map|nested_absmax|quant_state\..*)"),
    ("bitsandbytes in 8 bits", r".*\.(SCB|weight_format)"),
    ("compressed-tensors", r".*\.weight_(packed|shape|zero_point|g_idx)"),
    ("GPTQ", r".*\.g_idx"),
    ("AWQ or GPTQ", r".*\.qweight|.*\.qzeros"),
    ("AQLM", r".*\.codebooks"),
    ("HQQ", r".*\.W_q"),
    ("8-bit floats with scales (FP8)", r".*\.(weight_scale(_inv)?|input_scale)"),
    ("MXFP4", r".*_blocks"),
    ("whole numbers with scales (I-BERT)", r".*\.weight_integer"),
)
"""What only a quantised model stores, by name; the first that is found."""
_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "8-bit floats with scales (FP8)",
    "fbgemm_fp8": "8-bit floats with scales (FP8)",
    "mxfp4": "MXFP4",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "AQLM",
    "hqq": "HQQ",
}
_STEP = (
    "Quantised weights cannot be merged: use the model it was made from, in 16 bits, "
    "or write its weights back in 16 bits first (transformers: load it, "
    "`dequantize()`, `save_pretrained`)."
)


def read_shards(folder: Path) -> dict[str, TensorInfo]:
    """Read the headers of all weights of a folder, in name order.

    Raises:
        CheckpointError: There are no weights, only pickle files, or the files
            contradict their index.
    """
    refuse_links_out(folder, (SINGLE, INDEX))
    # The order transformers looks in: one file wins over an index.
    if (folder / SINGLE).is_file():
        tensors = read_header(folder / SINGLE)
    elif (folder / INDEX).is_file():
        tensors = _read_indexed(folder)
    else:
        raise CheckpointError(_explain_nothing(folder))
    if not tensors:
        raise CheckpointError(f"{folder}: the weights hold no tensor.")
    return dict(sorted(tensors.items()))


def _read_indexed(folder: Path) -> dict[str, TensorInfo]:
    weight_map = _weight_map(folder)
    shards = sorted(set(weight_map.values()))
    refuse_links_out(folder, shards)
    tensors: dict[str, TensorInfo] = {}
    for shard in shards:
        found = read_header(folder / shard)
        for name, info in found.items():
            if weight_map.get(name) != shard:
                there = weight_map.get(name)
                says = f"places in {there!r}" if there else "does not list"
                raise CheckpointError(
                    f"{folder / shard}: holds tensor {name!r}, which {INDEX} {says}. "
                    "The folder mixes two models."
                )
            tensors[name] = info
    if missing := sorted(set(weight_map) - set(tensors)):
        name = missing[0]
        raise CheckpointError(
            f"{folder / weight_map[name]}: lacks tensor {name!r} that {INDEX} places "
            f"there ({len(missing)} missing in all). Download it again."
        )
    return tensors


def _weight_map(folder: Path) -> dict[str, str]:
    weight_map: Any = read_json(folder / INDEX).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise CheckpointError(
            f"{folder / INDEX}: expected a weight_map from tensor to file. Download "
            "it again."
        )
    for name, shard in weight_map.items():
        if not isinstance(shard, str) or not _is_inside(shard):
            raise CheckpointError(
                f"{folder / INDEX}: tensor {name!r} is said to lie in {shard!r}; a "
                "shard must be a .safetensors file inside the folder. Do not trust "
                "this folder."
            )
        if not (folder / shard).is_file():
            raise CheckpointError(
                f"{folder}: shard {shard!r} is missing, {INDEX} places tensor {name!r} "
                "there. Download it again."
            )
    return weight_map


def _is_inside(shard: str) -> bool:
    path = PurePosixPath(shard)
    return (
        path.suffix == ".safetensors"
        and not path.is_absolute()
        and ".." not in path.parts
        and "\\" not in shard
        and "\0" not in shard
    )


def _explain_nothing(folder: Path) -> str:
    names = sorted(entry.name for entry in folder.iterdir() if entry.is_file())
    pickles = [name for name in names if name.endswith(PICKLES)]
    if pickles:
        return (
            f"{folder}: holds weights only as {pickles[0]!r}, a pickle file. Loading "
            "a pickle can run any code its author put in, so it is refused. Convert "
            "the model to safetensors, for example with transformers' save_pretrained "
            "on a machine where you trust its author."
        )
    if packed := [name for name in names if name.lower().endswith(".gguf")]:
        return (
            f"{folder}: holds weights only as {packed[0]!r}, a GGUF file for "
            f"llama.cpp. {_say_convert(folder / packed[0])}"
        )
    if "adapter_config.json" in names:
        return (
            f"{folder}: holds a low-rank adapter, not a model. Write it behind the "
            "model it was trained on, with a plus between them: model+adapter."
        )
    others = [name for name in names if name.endswith(".safetensors")]
    if others:
        return (
            f"{folder}: has {others[0]!r}, but neither {SINGLE} nor {INDEX}. Copy the "
            "whole folder."
        )
    return (
        f"{folder}: holds no weights: expected {SINGLE} or {INDEX}. Download the model "
        "completely."
    )


def refuse_gguf(path: Path) -> None:
    """Refuse a GGUF file in the place of a model folder.

    Raises:
        CheckpointError: It is one.
    """
    if path.suffix.lower() == ".gguf" and path.is_file():
        raise CheckpointError(f"{path}: is a GGUF file. {_say_convert(path)}")


def _say_convert(file: Path) -> str:
    """Say what can be done about a GGUF file."""
    return (
        "Its weights are mostly quantised: better use the repository of the model it "
        "was made from, with its safetensors. Or convert it: "
        f"evomerge convert {shlex.join([str(file), str(file.with_suffix(''))])}"
    )


def refuse_quantised(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse weights that are packed, by the name of how they are.

    Raises:
        CheckpointError: They are.
    """
    for form, pattern in _PACKED:
        found = next((n for n in tensors if re.fullmatch(pattern, n)), None)
        if found is not None:
            raise CheckpointError(
                f"{folder}: the model is quantised: {_named(config) or form}, as "
                f"tensor {found!r} of type {tensors[found].dtype} shows. {_STEP}"
            )
    packed = next((t for t in tensors.values() if _is_packed(t)), None)
    if packed is not None and _named(config):
        raise CheckpointError(
            f"{folder}: the model is quantised: {_named(config)}, and stores "
            f"{packed.name!r} as whole numbers ({packed.dtype}). {_STEP}"
        )


def say_quantised(config: Mapping[str, Any], error: CheckpointError) -> CheckpointError:
    """Return the error for weights of an element type that is not read."""
    form = _named(config)
    said = f" The model is quantised: {form}. {_STEP}" if form else f" {_STEP}"
    return CheckpointError(f"{error}{said}")


def without_left_over(
    config: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take keys out of a configuration that speak of packed weights where none are.

    Returns:
        The rest, and what must be said: nothing of a key without a value.
    """
    found = [key for key in KEYS if config.get(key) is not None]
    rest = {key: value for key, value in config.items() if key not in KEYS}
    return rest, tuple(
        f"config.json has {key} ({_method(config[key]) or 'no method'}), but all "
        "weights are plain numbers: they are loaded and merged as such, and the result "
        "is without the key."
        for key in found
    )


def left_over_keys(folder: str | Path) -> list[str]:
    """Name the keys of a plain model's configuration that speak of packed weights.

    Libraries that load the folder would look for such weights.

    Raises:
        CheckpointError: The configuration cannot be read.
    """
    return [key for key in KEYS if key in read_json(Path(folder) / "config.json")]


def _is_packed(tensor: TensorInfo) -> bool:
    return not tensor.is_float and len(tensor.shape) > 1


def _named(config: Mapping[str, Any]) -> str:
    method = next((_method(config.get(key)) for key in KEYS if config.get(key)), "")
    return _METHODS.get(method, method)


def _method(said: Any) -> str:
    if not isinstance(said, Mapping):
        return ""
    return str(said.get("quant_method") or said.get("format") or "")
