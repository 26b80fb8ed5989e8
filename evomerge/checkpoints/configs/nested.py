"""Configurations of several models in one: which of them is the text decoder.

Models that see or hear say of their decoder in a configuration of its own, and what
holds for the whole beside it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.checkpoints.configs.families import LAYER_COUNTS, listed_layers

_DECODERS = (
    *("text_config", "llm_config", "language_config", "thinker_config"),
    *("language_model_config", "vlm_config", "decoder"),
)
"""Keys under which a decoder is described, and what it may itself be nested in."""
_OF_THE_WHOLE = ("tie_word_embeddings",)
"""Keys that the outer configuration decides where it has them."""

_BLOCKS = ("attn_config", "ffn_config")
"""Settings of one model's blocks, which DBRX and MPT keep apart."""


def decoder_path(config: Mapping[str, Any]) -> tuple[str, ...]:
    """Return the keys that lead to the decoder's own configuration; none if outermost.

    A configuration that says both is that of its nested decoder.
    """
    for key in _DECODERS:
        inner = config.get(key)
        if isinstance(inner, Mapping):
            below = decoder_path(inner)
            if below or _says_layers(inner) or not _says_layers(config):
                return (key, *below)
    return ()


def decoder_config(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return what is said of the decoder, as if it were a model of its own."""
    path = decoder_path(config)
    if not path:
        return dict(config)
    inner: Any = config
    for key in path:
        inner = inner[key]
    out = dict(inner)
    return out | {key: config[key] for key in _OF_THE_WHOLE if key in config}


def with_decoder(
    config: Mapping[str, Any], decoder: Mapping[str, Any]
) -> dict[str, Any]:
    """Return a configuration with another decoder in its place.

    Args:
        config: The whole.
        decoder: As :func:`decoder_config` gives it, perhaps changed.
    """
    path = decoder_path(config)
    if not path:
        return dict(decoder)
    out = dict(config)
    at = out
    for key in path[:-1]:
        at[key] = dict(at[key])
        at = at[key]
    was = at[path[-1]]
    own = {k: v for k, v in decoder.items() if k in was or k not in _OF_THE_WHOLE}
    at[path[-1]] = own
    return out | {key: decoder[key] for key in _OF_THE_WHOLE if key in config}


def models_beside(config: Mapping[str, Any]) -> list[str]:
    """Name the keys that describe models beside the decoder."""
    path = decoder_path(config)
    return sorted(
        key
        for key, value in config.items()
        if key.endswith("_config")
        and key not in (*_BLOCKS, *path[:1])
        and isinstance(value, Mapping)
        and ("model_type" in value or "hidden_size" in value)
    )


def _says_layers(config: Mapping[str, Any]) -> bool:
    said = any(config.get(key) is not None for key in LAYER_COUNTS)
    return said or listed_layers(config) is not None
