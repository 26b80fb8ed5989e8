"""One model stored twice: with fused tensors, and split as another family would.

The split tensors are drawn first and then fused by hand, so nothing of the package
decides how they belong together.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file

Fusion = Literal["rows", "heads", "experts", "turned experts", "by row", "turned"]
"""How a tensor is fused: q, k, v and gate, up one after the other (Phi-3); head by head
(GPT-NeoX); all experts in one (Mixtral in memory), as [in, out] (Llama 4), with a row
of gate and a row of up by turns (gpt-oss); every matrix as [in, out] (GPT-2)."""

FUSIONS: tuple[Fusion, ...] = (
    "rows",
    "heads",
    "experts",
    "turned experts",
    "by row",
    "turned",
)
HIDDEN, HEADS, PAIRS, HEAD, INNER, EXPERTS, VOCAB = 8, 4, 2, 3, 6, 2, 11

Tensors = dict[str, torch.Tensor]

_FAMILY: Mapping[Fusion, str] = {"heads": "gpt_neox", "by row": "gpt_oss"}


def fused_twins(folder: Path, fusion: Fusion, seed: int) -> tuple[Path, Path]:
    """Write a random model of one layer fused and split; return both folders."""
    pairs = HEADS if fusion in ("heads", "turned") else PAIRS
    split = _split(fusion, pairs, torch.Generator().manual_seed(seed))
    fused = {**split}
    for name, parts in _plan(fusion, split).items():
        fused[name] = _fuse(fusion, name, [fused.pop(part) for part in parts])
    config = {
        "architectures": ["ForCausalLM"],
        "model_type": _FAMILY.get(fusion, "unheard_of"),
        "hidden_size": HIDDEN,
        "num_attention_heads": HEADS,
        "num_key_value_heads": pairs,
        "head_dim": HEAD,
        "num_experts": EXPERTS,
        "num_hidden_layers": 1,
        "vocab_size": VOCAB,
        "tie_word_embeddings": True,
        "dtype": "float32",
    }
    return (
        _write(folder / f"fused {fusion} {seed}", fused, config),
        _write(folder / f"split {fusion} {seed}", split, config),
    )


def unfuse(fusion: Fusion, fused: Tensors, split: Tensors) -> Tensors:
    """Return fused tensors for the split ones: what a fused merge must equal."""
    out = {**split}
    for name, parts in _plan(fusion, split).items():
        out[name] = _fuse(fusion, name, [out.pop(part) for part in parts])
    assert out.keys() == fused.keys()
    return out


def _split(fusion: Fusion, pairs: int, random: torch.Generator) -> Tensors:
    shapes: dict[str, Sequence[int]] = {
        "attn.q_proj.weight": (HEADS * HEAD, HIDDEN),
        "attn.k_proj.weight": (pairs * HEAD, HIDDEN),
        "attn.v_proj.weight": (pairs * HEAD, HIDDEN),
        "attn.c_proj.weight": (HIDDEN, HEADS * HEAD),
        "norm.weight": (HIDDEN,),
    }
    matrices = {
        "gate_proj": (INNER, HIDDEN),
        "up_proj": (INNER, HIDDEN),
        "down_proj": (HIDDEN, INNER),
    }
    if "experts" in fusion or fusion == "by row":
        shapes["mlp.router.weight"] = (EXPERTS, HIDDEN)
        for e in range(EXPERTS):
            for name, shape in matrices.items():
                shapes[f"mlp.experts.{e}.{name}.weight"] = shape
    else:
        shapes |= {f"mlp.{name}.weight": shape for name, shape in matrices.items()}
    if fusion != "experts":
        for name, size in list(shapes.items()):
            if "norm" not in name and "router" not in name:
                shapes[name.replace(".weight", ".bias")] = size[:1]
    shapes = {f"blocks.0.{name}": shape for name, shape in shapes.items()}
    shapes["wte.weight"] = (VOCAB, HIDDEN)
    return {
        name: torch.randn(tuple(shape), generator=random)
        for name, shape in shapes.items()
    }


def _plan(fusion: Fusion, split: Tensors) -> dict[str, list[str]]:
    """Return fused names and, for each, the split tensors that make it, in order."""
    plan: dict[str, list[str]] = {}
    for leaf, ending in (("weight", ""), ("bias", "_bias")):
        if f"blocks.0.mlp.experts.0.up_proj.{leaf}" in split:
            plan |= _experts(leaf, ending)
        elif f"blocks.0.attn.q_proj.{leaf}" in split:
            plan |= _dense(fusion, leaf)
    return plan


def _experts(leaf: str, ending: str) -> dict[str, list[str]]:
    at = "blocks.0.mlp.experts"
    return {
        f"{at}.{name}_proj{ending}": [
            f"{at}.{e}.{part}_proj.{leaf}" for e in range(EXPERTS) for part in parts
        ]
        for name, parts in (("gate_up", ("gate", "up")), ("down", ("down",)))
    }


def _dense(fusion: Fusion, leaf: str) -> dict[str, list[str]]:
    at = "blocks.0"
    qkv = {"rows": "qkv_proj", "heads": "query_key_value", "turned": "c_attn"}[fusion]
    plan = {f"{at}.attn.{qkv}.{leaf}": [f"{at}.attn.{x}_proj.{leaf}" for x in "qkv"]}
    if fusion == "rows":
        plan[f"{at}.mlp.gate_up_proj.{leaf}"] = [
            f"{at}.mlp.{part}_proj.{leaf}" for part in ("gate", "up")
        ]
    if fusion == "turned" and leaf == "weight":
        for name in ("attn.c_proj", "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
            plan[f"{at}.{name}.weight"] = [f"{at}.{name}.weight"]
    return plan


def _fuse(fusion: Fusion, name: str, parts: Sequence[torch.Tensor]) -> torch.Tensor:
    if ".experts." in name:
        each = len(parts) // EXPERTS
        turned = fusion != "experts" and not name.endswith("_bias")
        experts = []
        for first in range(0, len(parts), each):
            one = list(parts[first : first + each])
            by_turns = torch.stack(one, 1).flatten(0, 1)
            whole = by_turns if fusion == "by row" else torch.cat(one)
            experts.append(whole.T if turned else whole)
        return torch.stack(experts).contiguous()
    if "query_key_value" in name:
        heads = [part.view(HEADS, HEAD, *part.shape[1:]) for part in parts]
        return torch.cat(heads, 1).flatten(0, 1).contiguous()
    whole = torch.cat(list(parts))
    return whole.T.contiguous() if fusion == "turned" and whole.ndim == 2 else whole


def _write(folder: Path, tensors: Tensors, config: Mapping[str, Any]) -> Path:
    folder.mkdir(parents=True)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps(dict(config), indent=2))
    return folder
