"""What vLLM makes of an architecture: its tiny model, with room for vLLM's kernels.

A start costs up to a minute, so this is a step of its own beside the architecture's
other rows. The model is merged, swapped into a living engine whose self-test must pass,
and asked the fixed prompts; transformers is the judge.
"""

from __future__ import annotations

import multiprocessing
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch

from architectures.built import (
    CAUSAL,
    KINDS,
    SIZES,
    Kind,
    NotBuiltError,
    build,
    tiny_config,
)
from architectures.plain_merges import METHODS
from architectures.served import EXACT, serve
from architectures.table import examine
from evomerge import api
from evomerge.core.work import EngineSettings
from evomerge.errors import EvomergeError
from evomerge.scoring.vllm.startup import facts, prepare_environment

PASSES = "self-test passes"
_SECONDS = 240.0
_LONGEST = 240
_CACHE_BYTES = 128 << 20
_WIDER = 4
"""Heads of 32 entries, and a hidden state of 128: less has no kernel."""
_WIDE = {key for size in (8, 16, 32, 64) for key in SIZES[size].split()} | {
    "attention_head_dim",
    "d_head",
    "linear_head_dim",
    "mamba_headdim",
    "qk_head_dim",
}
_KEPT = {
    "attention_window_size",
    "dim_model_base",
    "index_topk",
    "image_size",
    "patch_size",
    "sliding_window",
    "mamba_chunk_size",
    "chunk_size",
    "original_max_position_embeddings",
    "num_position_embeddings",
    "block_size",
    "mamba_d_state",
    "state_size",
    "ssm_state_size",
    "mamba_n_heads",
    "mamba_num_heads",
}
_RECURRENT = dict.fromkeys(("linear_key_head_dim", "linear_value_head_dim"), 128)
_LATENT = {
    **dict.fromkeys(("head_dim", "qk_nope_head_dim", "v_head_dim"), 64),
    "kv_lora_rank": 512,
    "qk_head_dim": 128,
    "qk_rope_head_dim": 64,
}
"""The sizes of the published ones, the only ones that their kernels take."""
_GROUPED = {"topk_method": "noaux_tc", "scoring_func": "sigmoid"}
_LFM2 = {
    **dict.fromkeys(("conv_dim", "conv_dim_out", "block_dim"), 128),
    "block_ff_dim": 48,
    "block_multiple_of": 16,
    "block_auto_adjust_ff_dim": True,
    "block_ffn_dim_multiplier": 1.0,
}
_LLAMA4 = {"num_experts_per_tok": 1, "head_dim": 32}
_PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    **dict.fromkeys(("deepseek_v3", "glm4_moe_lite", "glm_moe_dsa"), _GROUPED),
    "afmoe": {"score_func": "sigmoid", "route_norm": True, "route_scale": 1.0},
    "falcon": {"ffn_hidden_size": 512},
    "glm4v_moe": {"text_config": {"head_dim": 32}},
    "glm4_moe": {"head_dim": 32},
    "lfm2": _LFM2,
    "llama4": {"text_config": _LLAMA4},
    "llama4_text": _LLAMA4,
    "minimax_m2": {"rotary_dim": 32, "scoring_func": "sigmoid"}
    | {"use_routing_bias": True},
    "nemotron_h": {
        "layers_block_type": ["linear_attention", "mlp", "full_attention", "mlp"]
    },
}
"""What published configurations have and vLLM reads, but tiny ones do without: mostly
keys that transformers' classes have no use for."""


_TOWERS = {"gemma4": "gemma4_vision"}


@dataclass(frozen=True, slots=True)
class InVllm:
    """What vLLM made of one architecture.

    Attributes:
        kind: Of task.
        family: ``model_type``.
        version: Of vLLM.
        outcome: ``exact``, or what else, with a reason.
    """

    kind: str
    family: str
    version: str
    outcome: str


def examine_in_vllm(kind: Kind, family: str) -> InVllm:
    """Serve an architecture by vLLM, in a process of its own."""
    version = _warm()
    context = multiprocessing.get_context("fork")
    ours, theirs = context.Pipe(duplex=False)
    child = context.Process(target=_child, args=(theirs, kind.name, family))
    child.start()
    theirs.close()
    try:
        found = f"refused: not done after {_SECONDS:g} s"
        if ours.poll(_SECONDS):
            found = ours.recv()
    except EOFError:
        found = "refused: its process died"
    finally:
        child.kill()
        child.join()
    return InVllm(kind.name, family, version, found)


@cache
def _warm() -> str:
    """Load here what every child then has for nothing; return vLLM's version."""
    prepare_environment()
    from evomerge.scoring.vllm.classes import serve_without_torchvision

    torch.set_num_threads(1)  # threads do not outlive a fork
    with TemporaryDirectory() as folder:
        examine(CAUSAL, "llama", Path(folder))
    serve_without_torchvision()
    return facts(EngineSettings("vllm"))["version"]


def _child(answer: Any, kind: str, family: str) -> None:
    torch.set_num_threads(1)
    with TemporaryDirectory() as folder:
        answer.send(outcome(KINDS[kind], family, Path(folder)))


def outcome(kind: Kind, family: str, folder: Path) -> str:
    """Serve an architecture by vLLM in this process, in the first type that it takes.

    Args:
        kind: Of task.
        family: ``model_type``.
        folder: To work in.
    """
    prepare_environment()
    found = _in_type("float32", kind, family, folder / "float32")
    if re.search("BF16|bfloat16", found):
        found = _in_type("bfloat16", kind, family, folder / "bfloat16")
    return found


def _in_type(dtype: str, kind: Kind, family: str, folder: Path) -> str:
    out = folder / "out"
    try:
        build(folder, kind, family, dtype, **_with_room(family))
        api.merge(_written(folder), out)
    except NotBuiltError as error:
        return f"not built: {error}"
    except EvomergeError as error:
        return f"not merged: {error}".replace(f"{folder}/", "")
    settings = {"dtype": dtype, "kv_cache_bytes": _CACHE_BYTES}
    found = serve("vllm", folder / "merge.yaml", out, **settings)
    if found == EXACT:
        return EXACT if dtype == "float32" else f"{EXACT} in {dtype}"
    where = "" if dtype == "float32" else f" in {dtype}"
    return _short(found.replace("wrong: differs", f"{PASSES}{where}, vLLM differs"))


def _written(folder: Path) -> Path:
    file = folder / "merge.yaml"
    sources = ", ".join(f"{name}: {name}" for name in ("base", "a", "b"))
    text = f"sources: {{{sources}}}\nframe: a\nexperts: [a, b]\n{METHODS['linear']}"
    file.write_text(text)
    return file


def _with_room(family: str) -> dict[str, Any]:
    changes = _wider(tiny_config(family).to_dict())
    if tower := _TOWERS.get(family):
        changes["vision_config"] = tiny_config(tower).to_dict()
    for key, value in _PUBLISHED.get(family, {}).items():
        is_block = key in changes and isinstance(value, Mapping)
        changes[key] = {**changes[key], **value} if is_block else value
    return changes


def _wider(data: Mapping[Any, Any]) -> dict[str, Any]:
    """Return what to change in a tiny configuration."""
    found: dict[str, Any] = {}
    kernels = {**_RECURRENT, **(_LATENT if data.get("kv_lora_rank") else {})}
    for key, value in data.items():
        if key == "per_layer_config" or not isinstance(key, str):
            continue
        if isinstance(value, dict) and "mrope_section" in value:
            section = [_WIDER * n for n in value["mrope_section"]]
            found[key] = {**value, "mrope_section": section}
        elif isinstance(value, dict) and "rope" not in key:
            found |= {key: inner} if (inner := _wider(value)) else {}
        elif key in kernels and value is not None:
            found[key] = kernels[key]
        elif key in _WIDE - _KEPT and type(value) is int:
            found[key] = _WIDER * value
    return found


def _short(text: str) -> str:
    """Take what a validation error says of its own, and what vLLM has no class for."""
    found = re.search(r"Value error, (.*?) \[type=", text, re.DOTALL)
    said = f"{text.partition('ValidationError')[0]}{found[1]}" if found else text
    unknown = re.search(r"Model architectures?.*?not supported", said, re.DOTALL)
    if unknown:
        return f"not served: {unknown[0]}"
    [first, *_] = said.splitlines()
    return first if len(first) < _LONGEST else f"{first[:_LONGEST]}..."
