"""Llama-shaped checkpoints of random weights: a base, and experts close to it."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file

_STEP = 128
_HEAD_DIM = 64
_N_SHARDS = 4
_BASE_STD, _DELTA_STD = 0.02, 0.002


@dataclass(frozen=True, slots=True)
class Shape:
    """A Llama as deep as it is wide.

    Attributes:
        hidden: A multiple of 128; every 128 of it come with one more layer.
    """

    hidden: int

    @property
    def n_layers(self) -> int:
        """Transformer layers."""
        return self.hidden // _STEP

    @property
    def vocab(self) -> int:
        """Tokens."""
        return min(16 * self.hidden, 128_256)

    @property
    def largest(self) -> int:
        """Parameters of the largest tensor."""
        return max(self.vocab, 4 * self.hidden) * self.hidden

    @property
    def parameters(self) -> int:
        """All parameters."""
        layer = sum(torch.Size(s).numel() for s in self.layer(0).values())
        return 2 * self.vocab * self.hidden + self.n_layers * layer + self.hidden

    def layer(self, index: int) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of one layer's tensors."""
        h, keys, inner = self.hidden, self.hidden // 2, 4 * self.hidden
        shapes: dict[str, tuple[int, ...]] = {
            "input_layernorm": (h,),
            "mlp.down_proj": (h, inner),
            "mlp.gate_proj": (inner, h),
            "mlp.up_proj": (inner, h),
            "post_attention_layernorm": (h,),
            "self_attn.k_proj": (keys, h),
            "self_attn.o_proj": (h, h),
            "self_attn.q_proj": (h, h),
            "self_attn.v_proj": (keys, h),
        }
        return {f"model.layers.{index}.{n}.weight": s for n, s in shapes.items()}

    def tensors(self) -> dict[str, tuple[int, ...]]:
        """Return the names and shapes of all tensors."""
        out: dict[str, tuple[int, ...]] = {}
        out["model.embed_tokens.weight"] = (self.vocab, self.hidden)
        for index in range(self.n_layers):
            out |= self.layer(index)
        out["model.norm.weight"] = (self.hidden,)
        out["lm_head.weight"] = (self.vocab, self.hidden)
        return out

    def config(self) -> dict[str, object]:
        """Return the ``config.json``."""
        n_heads = self.hidden // _HEAD_DIM
        return {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": self.vocab,
            "hidden_size": self.hidden,
            "intermediate_size": 4 * self.hidden,
            "num_hidden_layers": self.n_layers,
            "num_attention_heads": n_heads,
            "num_key_value_heads": n_heads // 2,
            "head_dim": _HEAD_DIM,
            "hidden_act": "silu",
            "max_position_embeddings": 2048,
            "rms_norm_eps": 1e-5,
            "rope_theta": 10000.0,
            "tie_word_embeddings": False,
            "bos_token_id": 1,
            "eos_token_id": 2,
            "dtype": "bfloat16",
        }


TINY = Shape(_STEP)
"""Small enough that merging it shows what starting costs; of every compiled path."""


def shape_of(parameters: float) -> Shape:
    """Return the smallest shape of about so many parameters."""
    hidden = _STEP
    while Shape(hidden).parameters < 0.95 * parameters:
        hidden += _STEP
    return Shape(hidden)


def write_checkpoint(folder: Path, shape: Shape, expert: int) -> None:
    """Write a checkpoint in bf16 and four files, unless it is there.

    Args:
        folder: To make.
        shape: Of the model.
        expert: 0 for the base; expert k is the base and small random changes.
    """
    if folder.exists():
        return
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    (partial / "config.json").write_text(json.dumps(shape.config()))
    index: dict[str, str] = {}
    shard: dict[str, torch.Tensor] = {}
    number = 1
    limit = -(-2 * shape.parameters // _N_SHARDS)
    for place, (name, size) in enumerate(shape.tensors().items()):
        shard[name] = _draw(place, size, expert)
        if sum(t.nbytes for t in shard.values()) >= limit:
            _write_shard(partial, number, shard, index)
            shard, number = {}, number + 1
    if shard:
        _write_shard(partial, number, shard, index)
    total = {"total_size": 2 * shape.parameters}
    (partial / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": total, "weight_map": index})
    )
    partial.rename(folder)


def _write_shard(
    folder: Path, number: int, shard: dict[str, torch.Tensor], index: dict[str, str]
) -> None:
    file = f"model-{number:05}.safetensors"
    save_file(shard, folder / file, metadata={"format": "pt"})
    index |= dict.fromkeys(shard, file)


def _draw(place: int, size: tuple[int, ...], expert: int) -> torch.Tensor:
    out = torch.randn(size, generator=torch.Generator().manual_seed(place))
    out.mul_(_BASE_STD)
    if len(size) == 1:
        out.add_(1.0)
    if expert:
        seed = 1_000_000 * expert + place
        change = torch.randn(size, generator=torch.Generator().manual_seed(seed))
        out.add_(change, alpha=_DELTA_STD)
    return out.to(torch.bfloat16)
