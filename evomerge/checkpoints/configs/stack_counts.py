"""How many layers each stack of a model has, where a model has several.

Encoder-decoders have two, and say of each how deep it is: under keys of their own, or
in two configurations. Others have stacks that take turns.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoints.configs.families import LAYER_COUNTS, Sizes, read_sizes
from evomerge.checkpoints.configs.nested import decoder_config

_COUNTS = re.compile(r"(.*_)?(layers?|blocks?)(_per_stack)?|n_layer")
_ENCODER = ("encoder_layers", "num_encoder_layers", *LAYER_COUNTS)
_DECODER = ("decoder_layers", "num_decoder_layers", *LAYER_COUNTS)
_BLOCKS = "block_sizes"
"""Key that lists how many layers each block of an encoder has (Funnel): its blocks are
numbered, and the layers within them."""
_SIDES = ("vision_config", "audio_config")
"""What an encoder-decoder that sees or hears calls the configuration of its encoder."""


@dataclass(frozen=True, slots=True)
class StackCounts:
    """What a configuration says of stacks of layers.

    Attributes:
        usual: Layers of a model's only stack.
        encoder: Layers of a stack that is called an encoder; None if nothing says so.
        decoder: The same of one that is called a decoder.
        paired: It must have an encoder and a decoder.
        said: Every number of layers that the configuration speaks of.
        has_tower: The model sees or hears by a tower that is no encoder of these.
        encoder_sizes: Sizes of the encoder's tensors.
    """

    usual: int
    encoder: int | None = None
    decoder: int | None = None
    paired: bool = False
    said: frozenset[int] = frozenset()
    has_tower: bool = False
    encoder_sizes: Sizes | None = None

    def of(self, prefix: str, stored: int, *, alone: bool) -> int | None:
        """Return how many layers a stack should have; None if nothing speaks of it.

        Args:
            prefix: What stands before a layer's number.
            stored: How many it has.
            alone: It is the model's only stack.
        """
        side = side_of(prefix)
        if side == "encoder" and self.encoder is not None:
            return self.encoder
        if side == "decoder" and self.decoder is not None:
            return self.decoder
        if alone:
            return self.usual
        return stored if stored in self.said else None


def side_of(prefix: str) -> str | None:
    """Tell whether a stack is an encoder or a decoder by the last word that says so."""
    for word in reversed(prefix.split(".")):
        if word in ("encoder", "decoder"):
            return word
    return None


def is_encoder_decoder(config: Mapping[str, Any]) -> bool:
    """Tell whether a configuration is that of an encoder with a decoder."""
    both = all(isinstance(config.get(key), Mapping) for key in ("encoder", "decoder"))
    return config.get("is_encoder_decoder") is True or both


def encoder_config(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return what is said of an encoder-decoder's encoder, perhaps of both at once."""
    inner = config.get("encoder")
    if isinstance(inner, Mapping):
        return decoder_config(inner)
    sides = (config.get(key) for key in _SIDES)
    found = next((side for side in sides if isinstance(side, Mapping)), None)
    return config if found is None else found


def read_stack_counts(config: Mapping[str, Any], usual: int) -> StackCounts:
    """Read how many layers the stacks of a model have.

    Args:
        config: The whole of ``config.json``.
        usual: Layers of the text decoder, if it is the only stack.
    """
    decoder = decoder_config(config)
    said = [value for key, value in decoder.items() if _COUNTS.fullmatch(key)]
    beside = [one for key, one in config.items() if key.endswith("_config")]
    said += [_count(one, _DECODER) for one in beside if isinstance(one, Mapping)]
    numbers = frozenset(n for n in said if type(n) is int and n > 0)
    if not is_encoder_decoder(config) and "encoder_layers" not in decoder:
        has_tower = any(isinstance(config.get(key), Mapping) for key in _SIDES)
        blocks = decoder.get(_BLOCKS)
        n_blocks = len(blocks) if isinstance(blocks, list) else None
        return StackCounts(usual, n_blocks, said=numbers, has_tower=has_tower)
    encoder = encoder_config(config)
    return StackCounts(
        usual,
        encoder=_count(encoder, _ENCODER),
        decoder=_count(decoder, _DECODER),
        paired=is_encoder_decoder(config),
        said=numbers,
        encoder_sizes=read_sizes(encoder),
    )


def _count(config: Mapping[str, Any], keys: tuple[str, ...]) -> int | None:
    found = (config.get(key) for key in keys)
    return next((n for n in found if type(n) is int and n > 0), None)
