"""Tiny low-rank adapters in the form PEFT saves them, written without PEFT."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WRAPPER = "base_model.model."
WEIGHTS = "adapter_model.safetensors"
CONFIG = "adapter_config.json"


def tiny_adapter(
    path: str | Path,
    base: str | Path,
    *,
    targets: Sequence[str] = ("q_proj", "down_proj"),
    rank: int = 4,
    seed: int = 0,
    **config: Any,
) -> Path:
    """Write a random adapter for a tiny model.

    Args:
        path: Folder to make.
        base: The model's folder; every matrix whose module ends in one of ``targets``
            gets a pair of factors.
        targets: Last parts of modules' names.
        rank: Rank of every pair of factors.
        seed: Of the factors.
        config: Further keys of ``adapter_config.json``.

    Returns:
        The folder.
    """
    generator = torch.Generator().manual_seed(seed)
    tensors: dict[str, torch.Tensor] = {}
    for name, weight in load_file(Path(base) / "model.safetensors").items():
        module = name.removesuffix(".weight")
        if module.split(".")[-1] not in targets:
            continue
        out, width = weight.shape
        kind, end = "lora", ".weight"
        if module.endswith("embed_tokens"):
            # PEFT looks rows up in A, so A runs over tokens and B over the width.
            kind, end, out, width = "lora_embedding", "", width, out
        for half, shape in (("A", (rank, width)), ("B", (out, rank))):
            tensors[f"{WRAPPER}{module}.{kind}_{half}{end}"] = 0.1 * torch.randn(
                *shape, generator=generator
            )
    settings = {"r": rank, "target_modules": list(targets), **config}
    return write_adapter(path, tensors, settings)


def write_adapter(
    path: str | Path, tensors: Mapping[str, torch.Tensor], config: Mapping[str, Any]
) -> Path:
    """Write an adapter folder of these tensors, with PEFT's usual settings around."""
    folder = Path(path)
    folder.mkdir(parents=True)
    save_file(
        {name: t.contiguous() for name, t in tensors.items()},
        folder / WEIGHTS,
        metadata={"format": "pt"},
    )
    usual = {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": "org/tiny-base",
        "r": 4,
        "lora_alpha": 8,
        "lora_dropout": 0.05,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "modules_to_save": None,
        "rank_pattern": {},
        "alpha_pattern": {},
        "use_rslora": False,
        "use_dora": False,
        "layer_replication": None,
    }
    text = json.dumps({**usual, **config}, indent=2) + "\n"
    (folder / CONFIG).write_text(text, encoding="utf-8")
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    """Change keys of an adapter's configuration."""
    file = folder / CONFIG
    data = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps({**data, **changes}), encoding="utf-8")


def adapter_tensors(folder: Path) -> dict[str, torch.Tensor]:
    """Read an adapter's tensors, copied so that its file may be rewritten."""
    return {n: t.clone() for n, t in load_file(folder / WEIGHTS).items()}
