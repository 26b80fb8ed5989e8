"""Tiny random models of many families, as transformers itself makes and saves them."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

_SIZES: Mapping[str, Any] = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
_SLIDING, _FULL = "sliding_attention", "full_attention"

FAMILIES: Mapping[str, Mapping[str, Any]] = {
    "llama": {"tie_word_embeddings": True},
    "mistral": {},
    "qwen2": {},
    "qwen3": {"head_dim": 16},
    "gemma2": {
        "head_dim": 16,
        "sliding_window": 4,
        "layer_types": [_SLIDING, _FULL, _SLIDING],
    },
    "gemma3_text": {
        "head_dim": 16,
        "sliding_window": 4,
        "layer_types": [_SLIDING, _SLIDING, _FULL],
    },
    "phi3": {},
    "olmo2": {},
    "granite": {"embedding_multiplier": 3.0, "residual_multiplier": 0.5},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen3_moe": {
        "head_dim": 16,
        "num_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 24,
        "mlp_only_layers": [1],
    },
}
"""``model_type`` to what its configuration has besides the common sizes."""

STRANGERS: Mapping[str, Mapping[str, Any]] = {
    "gpt_neox": {"num_key_value_heads": None},
    "gpt2": {"num_key_value_heads": None, "n_embd": 32, "n_layer": 3, "n_head": 4}
    | {"n_positions": 64, "hidden_size": None, "intermediate_size": None}
    | {"num_hidden_layers": None, "num_attention_heads": None},
    "smollm3": {"no_rope_layers": [1, 0, 1], "tie_word_embeddings": False},
    "granitemoe": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "gpt_oss": {
        "num_local_experts": 4,
        "num_experts_per_tok": 2,
        "head_dim": 8,
        "sliding_window": 4,
        "layer_types": [_SLIDING, _FULL, _SLIDING],
    },
    "bloom": {"n_head": 4, "n_layer": 3, "num_attention_heads": None}
    | {"num_hidden_layers": None, "num_key_value_heads": None},
    "opt": {"ffn_dim": 48, "word_embed_proj_dim": 32, "num_key_value_heads": None},
    "starcoder2": {"sliding_window": None},
}
"""Families that nothing in the package was made for."""


def family_config(family: str, **changes: Any) -> Any:
    """Return a tiny transformers configuration of a family."""
    from transformers import AutoConfig

    own = {**FAMILIES, **STRANGERS}[family]
    given = {**_SIZES, **own, **changes}
    return AutoConfig.for_model(
        family, **{key: value for key, value in given.items() if value is not None}
    )


def family_model(config: Any, seed: int = 0, *, near: Any = None) -> Any:
    """Return a random transformers model on the CPU, in float32.

    All weights are multiples of 1/4096, so sums of a few of them are exact.

    Args:
        config: See :func:`family_config`.
        seed: Of the weights, all of which are drawn: gains and biases too.
        near: A model of the same configuration to lie close to.
    """
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(config).eval().float()
    random = torch.Generator().manual_seed(seed)
    start = None if near is None else dict(near.named_parameters())
    with torch.no_grad():
        for name, weights in model.named_parameters():
            noise = torch.randn(weights.shape, generator=random)
            if start is not None:
                weights.copy_(start[name] + 0.05 * noise)
            elif weights.ndim == 1:
                weights.add_(0.1 * noise)
            else:
                weights.copy_(noise * weights.shape[-1] ** -0.5)
            weights.copy_((weights * 4096).round() / 4096)
    return model


def save_family(folder: Path, model: Any, dtype: str = "float32", **saving: Any) -> Any:
    """Save a model as transformers does, in an element type; return it as saved.

    Args:
        folder: To make.
        model: See :func:`family_model`.
        dtype: Element type of the stored tensors.
        saving: Given on to ``save_pretrained``, for example ``max_shard_size``.
    """
    stored = model.to(getattr(torch, dtype))
    stored.save_pretrained(folder, **saving)
    return stored


def logits(model: Any) -> torch.Tensor:
    """Return what a model answers to two fixed sequences of 12 tokens.

    Computed in float64, so that only a difference of the weights is seen.
    """
    tokens = torch.arange(24).reshape(2, 12) * 7 % 59 + 3
    # The other ways to run experts know no float64.
    model.set_experts_implementation("eager")
    with torch.inference_mode():
        found: torch.Tensor = model.double()(tokens, use_cache=False).logits
    model.float()
    return found
