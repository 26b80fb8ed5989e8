"""Which files hold a model's weights, and which are refused."""

from pathlib import Path, PurePosixPath
from typing import Any

from evomerge.checkpoints.documents import read_json, refuse_links_out
from evomerge.checkpoints.header import TensorInfo, read_header
from evomerge.errors import CheckpointError

SINGLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl")


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
            "llama.cpp, whose weights are mostly quantised. Use the repository of the "
            "model it was made from, with its safetensors."
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
