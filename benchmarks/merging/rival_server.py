"""Merges in memory with mergekit's own API; runs in mergekit's environment.

A line of JSON in, ``{"seconds": …}`` out, for as long as lines come. Tensors stay in
memory between merges.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
from mergekit.merge_methods.api import merge_state_dicts
from safetensors import safe_open

_INDEX = "model.safetensors.index.json"


def load(folder: Path, names: list[str]) -> dict[str, torch.Tensor]:
    """Read tensors of a checkpoint."""
    files = json.loads((folder / _INDEX).read_text())["weight_map"]
    out = {}
    for name in names:
        with safe_open(folder / files[name], framework="pt") as shard:
            out[name] = shard.get_tensor(name)
    return out


def main() -> None:
    """Answer until the input ends."""
    loaded: dict[str, dict[str, torch.Tensor]] = {}
    for line in sys.stdin:
        job = json.loads(line)
        torch.set_num_threads(job["threads"])
        for folder in job["folders"].values():
            if folder not in loaded:
                loaded[folder] = load(Path(folder), job["tensors"])
        models = {name: loaded[folder] for name, folder in job["folders"].items()}
        began = time.perf_counter()
        with torch.no_grad():
            merge_state_dicts(
                models,
                job["method"],
                parameters=job["parameters"],
                base=job["base"],
                dtype=torch.bfloat16,
                out_dtype=torch.bfloat16,
            )
        print(json.dumps({"seconds": time.perf_counter() - began}), flush=True)


if __name__ == "__main__":
    main()
