"""The sizes of a model, whatever its family calls them in ``config.json``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

LAYER_COUNTS = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")
"""Keys that hold the number of layers; the first is what most families say."""

_WIDTHS = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "n_head_kv")
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Sizes:
    """What a configuration says of the shapes of its tensors; None where it is silent.

    Attributes:
        family: ``model_type``, or nothing.
        hidden: Width of the hidden state.
        heads: Attention heads.
        key_value_heads: Heads of keys and values.
        head: Width of one head.
        experts: Experts of a mixture layer.
    """

    family: str = ""
    hidden: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    head: int | None = None
    experts: int | None = None


def read_sizes(config: Mapping[str, Any]) -> Sizes:
    """Read the sizes; a value that is no whole number from 1 up counts as silence."""
    hidden, heads = _first(config, _WIDTHS), _first(config, _HEADS)
    head = _first(config, ("head_dim",))
    if head is None and hidden and heads and hidden % heads == 0:
        head = hidden // heads
    return Sizes(
        family=str(config.get("model_type", "")),
        hidden=hidden,
        heads=heads,
        key_value_heads=_first(config, _KEY_VALUE_HEADS) or heads,
        head=head,
        experts=_first(config, _EXPERTS),
    )


def layer_count_key(config: Mapping[str, Any]) -> str:
    """Return the key that holds the number of layers; the usual one if none does."""
    return next((key for key in LAYER_COUNTS if key in config), LAYER_COUNTS[0])


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = config.get(key)
        if type(value) is int and value > 0:
            return value
    return None
