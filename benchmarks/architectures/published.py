"""Tiny models in the form in which their families are published.

Sharded with an index, in bfloat16 with a few float32 tensors, with the towers and the
layers that predict further tokens which the published folders have.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from architectures.built import (
    CAUSAL,
    IMAGE_TEXT,
    N_LAYERS,
    Kind,
    NotBuiltError,
    build,
    tiny_config,
)
from architectures.table import loaded_otherwise, stored
from evomerge import api
from evomerge.checkpoints import BUFFER, Model, Piece, read_model
from evomerge.errors import EvomergeError
from evomerge.merging.views.fused import cut

_SHARDS = 3
_ROUTER_BIAS = r".*(e_score_correction_bias|expert_bias)"
_ONE_ROUNDING = 2.0**-7
"""Of bfloat16."""
Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Form:
    """How a family is published.

    Attributes:
        name: As people call it.
        kind: Of task: with a tower or without.
        family: ``model_type``.
        predicts: Adds what predicts further tokens, if it has such layers.
        wide: Names of its tensors in float32.
        changes: What its configuration has besides.
        tower: ``model_type`` of a tower that its usual configuration is without.
    """

    name: str
    kind: Kind
    family: str
    predicts: Callable[[Tensors], Tensors] | None = None
    wide: str = r"(?!)"
    changes: Mapping[str, Any] = field(default_factory=dict)
    tower: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of a family in its published form.

    Attributes:
        name: As people call it.
        why: Why it did not merge, or what is wrong; empty if nothing is.
        tensors: Stored tensors, each accounted for.
        cut: Those merged in pieces.
        carried: Kind of part to its tensors, all equal to the frame's bit for bit.
        types: Element type to tensors, of the result; equal to the frame's one by one.
    """

    name: str
    why: str = ""
    tensors: int = 0
    cut: int = 0
    carried: Mapping[str, int] = field(default_factory=dict)
    types: Mapping[str, int] = field(default_factory=dict)


def _behind(tensors: Tensors) -> Tensors:
    """Return a layer behind the last, as DeepSeek-V3 and GLM-4.5 store it."""
    last = f"model.layers.{N_LAYERS - 1}."
    out = _layer(tensors, last, f"model.layers.{N_LAYERS}.")
    embed = tensors["model.embed_tokens.weight"]
    width = embed.shape[1]
    added = {
        "eh_proj.weight": torch.randn(width, 2 * width),
        "enorm.weight": torch.randn(width),
        "hnorm.weight": torch.randn(width),
        "embed_tokens.weight": embed,
        "shared_head.norm.weight": torch.randn(width),
        "shared_head.head.weight": embed,
    }
    return out | {f"model.layers.{N_LAYERS}.{n}": t for n, t in added.items()}


def _mtp(tensors: Tensors) -> Tensors:
    """Return layers beside the others, as Qwen3-Next and Qwen3.5 store them."""
    last = next(n for n in tensors if f"layers.{N_LAYERS - 1}.self_attn." in n)
    out = _layer(tensors, last[: last.index("self_attn.")], "mtp.layers.0.")
    width = next(t for n, t in tensors.items() if "embed_tokens" in n).shape[1]
    norms = ("norm", "pre_fc_norm_hidden", "pre_fc_norm_embedding")
    out |= {f"mtp.{name}.weight": torch.randn(width) for name in norms}
    return out | {"mtp.fc.weight": torch.randn(width, 2 * width)}


def _ernie(tensors: Tensors) -> Tensors:
    """Return layers beside the others, as ERNIE 4.5 stores them."""
    out = _layer(tensors, f"model.layers.{N_LAYERS - 1}.", "model.mtp_block.0.")
    width = tensors["model.embed_tokens.weight"].shape[1]
    norms = ("mtp_emb_norm", "mtp_hidden_norm")
    out |= {f"model.{name}.0.weight": torch.randn(width) for name in norms}
    return out | {"model.mtp_linear_proj.0.weight": torch.randn(width, 2 * width)}


def _layer(tensors: Tensors, old: str, new: str) -> Tensors:
    found = {n: t for n, t in tensors.items() if n.startswith(old)}
    return {new + n.removeprefix(old): 1.5 * t for n, t in found.items()}


_NEXTN = {"num_nextn_predict_layers": 1}
FORMS = (
    Form("Qwen3-Next", CAUSAL, "qwen3_next", _mtp),
    Form("Qwen3.5", IMAGE_TEXT, "qwen3_5", _mtp),
    Form("Qwen3.5 mixture", IMAGE_TEXT, "qwen3_5_moe", _mtp),
    Form("LFM2", CAUSAL, "lfm2"),
    Form("LFM2 mixture", CAUSAL, "lfm2_moe", wide=_ROUTER_BIAS),
    Form("Gemma 3n, text", CAUSAL, "gemma3n_text"),
    Form("Gemma 4", IMAGE_TEXT, "gemma4", tower="gemma4_vision"),
    Form("Granite 4 hybrid", CAUSAL, "granitemoehybrid"),
    Form("Falcon-H1", CAUSAL, "falcon_h1"),
    Form("Jamba", CAUSAL, "jamba"),
    Form("Bamba", CAUSAL, "bamba"),
    Form("Nemotron-H", CAUSAL, "nemotron_h"),
    Form("Kimi-Linear", CAUSAL, "kimi_linear", wide=_ROUTER_BIAS + r"|.*\.A_log"),
    Form("MiniMax-Text-01", CAUSAL, "minimax"),
    Form("MiniMax-M2", CAUSAL, "minimax_m2", wide=_ROUTER_BIAS),
    Form("Apertus", CAUSAL, "apertus"),
    Form("ERNIE 4.5 mixture", CAUSAL, "ernie4_5_moe", _ernie, _ROUTER_BIAS),
    Form("MPT", CAUSAL, "mpt"),
    Form("DBRX", CAUSAL, "dbrx"),
    Form("Gemma 3", IMAGE_TEXT, "gemma3"),
    Form("Mistral 3", IMAGE_TEXT, "mistral3"),
    Form("Llama 4", IMAGE_TEXT, "llama4"),
    Form("GLM-4.5", CAUSAL, "glm4_moe", _behind, _ROUTER_BIAS, _NEXTN),
    Form("DeepSeek-V3", CAUSAL, "deepseek_v3", _behind, _ROUTER_BIAS, _NEXTN),
)


def publish(form: Form, folder: Path) -> None:
    """Write a base and two models near it, ``a`` and ``b``, as they are published.

    Raises:
        NotBuiltError: The architecture cannot be built.
    """
    changes = dict(form.changes)
    if form.tower:
        changes["vision_config"] = tiny_config(form.tower).to_dict()
    build(folder, form.kind, form.family, "bfloat16", **changes)
    for seed, name in enumerate(("base", "a", "b")):
        torch.manual_seed(seed)
        tensors = stored(folder / name)
        if form.predicts is not None:
            tensors |= form.predicts(tensors)
        for old in (folder / name).glob("*.safetensors*"):
            old.unlink()
        _write(folder / name, {n: _typed(form, n, t) for n, t in tensors.items()})


def _typed(form: Form, name: str, tensor: torch.Tensor) -> torch.Tensor:
    if not tensor.is_floating_point():
        return tensor
    is_wide = re.fullmatch(form.wide, name)
    return tensor.to(torch.float32 if is_wide else torch.bfloat16)


def _write(folder: Path, tensors: Tensors) -> None:
    names = sorted(tensors)
    where: dict[str, str] = {}
    for i in range(_SHARDS):
        file = f"model-{i + 1:05}-of-{_SHARDS:05}.safetensors"
        part = {n: tensors[n].clone().contiguous() for n in names[i::_SHARDS]}
        save_file(part, folder / file, {"format": "pt"})
        where |= dict.fromkeys(part, file)
    size = sum(t.nbytes for t in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": where}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


def examine_form(form: Form, folder: Path) -> Outcome:
    """Merge a family as it is published, load and compare.

    Args:
        form: How it is published.
        folder: To work in.
    """
    try:
        publish(form, folder)
    except NotBuiltError as error:
        return Outcome(form.name, f"not built: {error}")
    file, out = folder / "merge.yaml", folder / "out"
    file.write_text(
        "sources: {base: base, a: a, b: b}\nframe: a\nexperts: [a, b]\n"
        "operator: linear\nknobs: {weight: {a: 0.25, b: 0.75}}\n"
    )
    try:
        model = read_model(folder / "a")
        api.merge(file, out)
    except EvomergeError as error:
        return Outcome(form.name, f"refused: {error}".replace(f"{folder}/", ""))
    found = stored(out)
    odd = next(_oddities(model, stored(folder / "a"), stored(folder / "b"), found), "")
    odd = odd or loaded_otherwise(folder / "a", out) or ""
    types = [str(t.dtype).removeprefix("torch.") for t in found.values()]
    return Outcome(
        form.name,
        odd,
        tensors=len(found),
        cut=sum(bool(model.places[name].pieces) for name in found),
        carried={kind: len(names) for kind, names in sorted(model.beside.items())},
        types={one: types.count(one) for one in sorted(set(types))},
    )


def _oddities(model: Model, a: Tensors, b: Tensors, found: Tensors) -> Iterator[str]:
    """Say which tensors are not what plain arithmetic gives, in the type they had."""
    for name in sorted(a.keys() ^ found.keys()):
        yield f"{name!r} is missing or too many"
    for name, merged in found.items():
        place = model.places[name]
        if merged.dtype != a[name].dtype:
            yield f"{name!r} has become {merged.dtype}"
        if place.section == "beside" or place.role == BUFFER:
            if not torch.equal(merged, a[name]):
                yield f"{name!r} is not the frame's"
            continue
        pieces: tuple[Piece | None, ...] = place.pieces or (None,)
        for piece in pieces:
            one, other = (cut(t[name], piece).double() for t in (a, b))
            wanted = 0.25 * one + 0.75 * other
            if not torch.allclose(
                cut(merged, piece).double(), wanted, _ONE_ROUNDING, 1e-6
            ):
                yield f"{name!r} ({place.role}) is merged otherwise"
