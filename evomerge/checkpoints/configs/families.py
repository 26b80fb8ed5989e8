"""A configuration's sizes, and what its family takes for granted.

What transformers assumes where a configuration is silent lies in ``families.json``, one
line for each family of causal language models, written from transformers' own classes
(``make defaults``).
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any

FILE = Path(__file__).with_name("families.json")

_LIMITS = ("max_position_embeddings", "n_positions", "max_seq_len", "model_max_length")

LAYER_COUNTS = (
    *("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    *("decoder_layers", "layers", "num_blocks", "num_decoder_layers"),
    "num_transformer_layers",
)
"""Keys that hold the number of layers; the first is what most families say."""

LAYER_LISTS = ("layers_block_type", "layer_types")
"""Keys that hold an entry for each layer, of which some families count theirs."""

_WIDTHS = ("hidden_size", "n_embd", "d_model")
_HEADS = ("num_attention_heads", "n_head", "n_heads", "num_heads")
_KEY_VALUE_HEADS = (
    *("num_key_value_heads", "num_kv_heads", "n_head_kv"),
    *("multi_query_group_num", "kv_n_heads"),
)
_EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")


@dataclass(frozen=True, slots=True)
class Family:
    """What is known of a family; nothing of one that transformers does not know.

    Attributes:
        fields: Key that may decide what weights compute, to its value if left out.
        derived: Further keys, whose value follows from others if left out.
        names: Another name of a key, to the key.
        rope: Kind of layer to its rotary positions where a configuration is silent.
        fill: The same to base and factor where it says only how they are scaled.
        read: Key of its own to the kinds of layers whose rotary positions it sets.
        scaled: Kinds of layers that ``rope_scaling`` speaks of.
        layer_types: Pattern of the layers where a configuration has no list.
        no_rope_layers: The same for layers with rotary positions, 1, and without, 0.
    """

    fields: Mapping[str, Any] = field(default_factory=dict)
    derived: Sequence[str] = ()
    names: Mapping[str, str] = field(default_factory=dict)
    rope: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    fill: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    read: Mapping[str, Sequence[str]] = field(default_factory=dict)
    scaled: Sequence[str] = ()
    layer_types: Sequence[str] = ()
    no_rope_layers: Sequence[int] = ()

    @property
    def is_known(self) -> bool:
        """Whether it is known what its configurations may leave out."""
        return bool(self.fields)

    def said(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration with other names replaced by the family's own."""
        out = dict(config)
        for other, own in self.names.items():
            if other in out:
                out.setdefault(own, out[other])
        return out

    def filled(self, config: Mapping[str, Any]) -> dict[str, Any]:
        """Return a configuration with what it leaves out."""
        return {**self.fields, **self.said(config)}


def family_of(config: Mapping[str, Any]) -> Family:
    """Return what is known of a configuration's family."""
    return _families().get(str(config.get("model_type")), _UNKNOWN)


def are_one_family(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    """Tell whether two configurations are of one family.

    A text decoder bears the name of the model that sees, or its own with ``_text``.
    """
    a, b = (str(config.get("model_type")) for config in (one, other))
    return a.removesuffix("_text") == b.removesuffix("_text")


def position_limit(config: Mapping[str, Any]) -> int | None:
    """Return for how many positions a model was made; None if nothing says so."""
    filled = family_of(config).filled(config)
    found = (filled.get(key) for key in _LIMITS)
    return next((n for n in found if type(n) is int and n > 0), None)


def gives_reward(config: Mapping[str, Any]) -> bool:
    """Tell whether a model is a classifier of one output: a reward model."""
    named = config.get("architectures") or [""]
    n_outputs = len(config.get("id2label") or range(config.get("num_labels") or 2))
    return str(named[0]).endswith("ForSequenceClassification") and n_outputs == 1


@cache
def _families() -> Mapping[str, Family]:
    data: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return {name: Family(**known) for name, known in data.items()}


_UNKNOWN = Family()


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
        linear_key_heads: Heads of keys of linear attention.
        by_layer: Heads, and those of keys and values, of each layer, where layers
            differ in them (OpenELM).
    """

    family: str = ""
    hidden: int | None = None
    heads: int | None = None
    key_value_heads: int | None = None
    head: int | None = None
    experts: int | None = None
    linear_key_heads: int | None = None
    by_layer: tuple[tuple[int, int], ...] = ()

    def of_layer(self, layer: int) -> Sizes:
        """Return what holds for one layer."""
        if layer >= len(self.by_layer):
            return self
        heads, pairs = self.by_layer[layer]
        return replace(self, heads=heads, key_value_heads=pairs)


def read_sizes(config: Mapping[str, Any]) -> Sizes:
    """Read the sizes; a value that is no whole number from 1 up counts as silence."""
    config = _with_blocks(config)
    hidden, heads = _first(config, _WIDTHS), _first(config, _HEADS)
    head = _first(config, ("head_dim", "kv_channels", "d_head"))
    if head is None and hidden and heads and hidden % heads == 0:
        head = hidden // heads
    return Sizes(
        family=str(config.get("model_type", "")),
        hidden=hidden,
        heads=heads,
        key_value_heads=_first(config, _KEY_VALUE_HEADS) or heads,
        head=head,
        experts=_first(config, _EXPERTS),
        linear_key_heads=_first(config, ("linear_num_key_heads",)),
        by_layer=_listed_heads(config),
    )


def _listed_heads(config: Mapping[str, Any]) -> tuple[tuple[int, int], ...]:
    heads, pairs = (config.get(key) for key in ("num_query_heads", "num_kv_heads"))
    if not (isinstance(heads, list) and isinstance(pairs, list)):
        return ()
    found = [(q, kv) for q, kv in zip(heads, pairs, strict=False)]
    return tuple(one for one in found if type(one[0]) is type(one[1]) is int)


def _with_blocks(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return a configuration with what DBRX and MPT say of their blocks apart."""
    blocks = (config.get(key) for key in ("ffn_config", "attn_config"))
    inner = [block for block in blocks if isinstance(block, Mapping)]
    return {k: v for block in (*inner, config) for k, v in block.items()}


def layer_count_key(config: Mapping[str, Any]) -> str:
    """Return the key that holds the number of layers; the usual one if none does."""
    said = (key for key in LAYER_COUNTS if config.get(key) is not None)
    return next(said, LAYER_COUNTS[0])


def listed_layers(config: Mapping[str, Any]) -> int | None:
    """Return the number of layers where a configuration only lists what each is."""
    if any(config.get(key) is not None for key in LAYER_COUNTS):
        return None
    lists = (config.get(key) for key in LAYER_LISTS)
    return next((len(one) for one in lists if isinstance(one, list) and one), None)


def _first(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    for key in keys:
        value = config.get(key)
        if type(value) is int and value > 0:
            return value
    return None
