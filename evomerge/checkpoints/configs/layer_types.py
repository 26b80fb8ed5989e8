"""Kinds of layers: which may share a slot, and how a stack of them is written down.

Weights of one shape may belong to layers that compute differently: over a sliding
window or over everything, with or without rotary positions, one feed-forward block or
a mixture. Configurations tell it as lists, as patterns or as counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoints.configs.families import (
    LAYER_COUNTS,
    LAYER_LISTS,
    Family,
    family_of,
    layer_count_key,
    listed_layers,
)
from evomerge.errors import CheckpointError

FULL = "full_attention"
RECURRENT = "recurrent block"
"""Type of layers that store a recurrence where others store none, and the configuration
says by some pattern of its own which they are."""
_DENSE_FIRST = ("first_k_dense_replace", "num_dense_layers")
"""Keys for the number of layers before those with a mixture of experts."""
_PARTED = "hidden_size_per_layer_input"
"""Key of families whose embedding has a part for each layer."""
_BY_NUMBER = "per_layer_config"
"""Key that holds, by number, what is otherwise in few layers (Gemma 4)."""
_INDEX_LISTS = ("mlp_only_layers", "moe_layers")


@dataclass(frozen=True, slots=True)
class LayerType:
    """What a layer computes with its weights.

    Attributes:
        attention: For example ``sliding_attention``; None if all layers are alike.
        rotary: It has rotary positions, where some layers of the model have none.
        mixture: Its feed-forward block is a mixture of experts.
        stack: What its stack is called where a model has several.
    """

    attention: str | None = None
    rotary: bool = True
    mixture: bool = False
    stack: str = ""

    def __str__(self) -> str:
        words = [(self.attention or "attention").replace("_", " ")]
        words += [] if self.rotary else ["no rotary positions"]
        words += ["a mixture of experts" if self.mixture else "one feed-forward block"]
        words += [f"of {self.stack[:-1]}"] if self.stack else []
        return ", ".join(words)

    def fits(self, other: LayerType) -> bool:
        """Tell whether layers of these types may be merged into one."""
        unknown = self.attention is None or other.attention is None
        return (unknown or self.attention == other.attention) and (
            (self.rotary, self.mixture) == (other.rotary, other.mixture)
            and self.stack == other.stack
        )


def read_layer_types(
    config: Mapping[str, Any], mixtures: Sequence[bool], recurrent: Sequence[bool] = ()
) -> tuple[LayerType, ...]:
    """Tell the type of each layer.

    Args:
        config: ``config.json``.
        mixtures: For each layer, whether it stores experts.
        recurrent: For each layer, whether it stores a recurrence; none does if empty.

    Raises:
        CheckpointError: A list of the configuration is not one entry per layer.
    """
    n = len(mixtures)
    family = family_of(config)
    attention = list(_attention(config, family, n))
    if any(recurrent) and not all(recurrent) and attention == [None] * n:
        attention = [RECURRENT if one else FULL for one in recurrent]
    rotary = _rotary(config, family, n)
    return tuple(
        LayerType(*known) for known in zip(attention, rotary, mixtures, strict=True)
    )


def restacked(
    config: Mapping[str, Any],
    picks: Sequence[tuple[Mapping[str, Any], int, LayerType]],
) -> dict[str, Any]:
    """Return a configuration for a stack of other layers.

    Args:
        config: The frame's.
        picks: For each layer of the stack, the configuration it came with, its index
            there, and its type.

    Raises:
        CheckpointError: The family cannot say in its configuration what the stack is.
    """
    out = dict(config)
    _refuse_unwritable(config, picks)
    for key in LAYER_COUNTS:
        if config.get(key) is not None:
            out[key] = len(picks)
    for key, value in config.items():
        if _is_per_layer(key, value, config):
            out[key] = [_entry(source, key, layer) for source, layer, _ in picks]
        elif key == _BY_NUMBER and isinstance(value, Mapping):
            said = [(source.get(key) or {}).get(str(i)) for source, i, _ in picks]
            out[key] = {str(i): one for i, one in enumerate(said) if one is not None}
    types = [kind for _, _, kind in picks]
    attentions = [kind.attention for kind in types]
    has_list = any(isinstance(config.get(key), list) for key in LAYER_LISTS)
    if not has_list and not {None, RECURRENT} & set(attentions):
        out["layer_types"] = attentions
    if "no_rope_layers" not in config and not all(kind.rotary for kind in types):
        out["no_rope_layers"] = [int(kind.rotary) for kind in types]
    return out | _mixtures(config, [kind.mixture for kind in types])


def _refuse_unwritable(
    config: Mapping[str, Any],
    picks: Sequence[tuple[Mapping[str, Any], int, LayerType]],
) -> None:
    """Refuse an order of recurrent layers that only a pattern could tell of.

    Raises:
        CheckpointError: Layers are not where they were.
    """
    moved = [i for i, (_, layer, _) in enumerate(picks) if layer != i]
    count = config.get(layer_count_key(config), len(picks))
    if (why := fixed_order(config, [kind for *_, kind in picks])) and (
        moved or count != len(picks)
    ):
        raise CheckpointError(
            f"This family {why}, so layers can neither be moved nor left out. Keep the "
            "frame's layers in their order."
        )


def fixed_order(config: Mapping[str, Any], types: Sequence[LayerType]) -> str | None:
    """Say why layers of a model must stay where they are; None if they need not.

    Args:
        config: What its configuration says of the text decoder.
        types: Of its layers.
    """
    if any(kind.attention == RECURRENT for kind in types):
        return "says by a pattern which of its layers are recurrent"
    if config.get(_PARTED):
        return f"has an embedding with a part for each layer ({_PARTED})"
    return None


def _mixtures(config: Mapping[str, Any], mixtures: Sequence[bool]) -> dict[str, Any]:
    dense = [i for i, mixture in enumerate(mixtures) if not mixture]
    out: dict[str, Any] = {}
    counted = [key for key in _DENSE_FIRST if config.get(key) is not None]
    if not any(mixtures):
        # Layers further on would be mixtures.
        return {key: len(dense) for key in counted}
    if "moe_layers" in config:
        out["moe_layers"] = [i for i, mixture in enumerate(mixtures) if mixture]
    if "mlp_only_layers" in config or "decoder_sparse_step" in config:
        out |= {"mlp_only_layers": dense, "decoder_sparse_step": 1}
    if counted:
        if dense != list(range(len(dense))):
            raise CheckpointError(
                f"Layers {dense} of the stack have one feed-forward block and the "
                "others a mixture of experts, but this family can only have such "
                "layers first. Put them there."
            )
        out |= dict.fromkeys(counted, len(dense))
    return out


def windows(
    config: Mapping[str, Any], types: Sequence[LayerType]
) -> tuple[int | None, ...]:
    """Tell over how many tokens each layer looks back; None if over all.

    Args:
        config: ``config.json``.
        types: Of each layer; without, all look back equally far.
    """
    window = _window(config)
    usual = FULL if family_of(config).layer_types else "sliding"
    return tuple(
        window if "sliding" in (kind.attention or usual) else None for kind in types
    )


def _window(config: Mapping[str, Any]) -> int | None:
    family = family_of(config)
    if family.is_known and "sliding_window" not in family.fields:
        return None  # its classes do not read the key
    filled = family.filled(config)
    window, is_used = filled.get("sliding_window"), filled.get("use_sliding_window")
    if type(window) is not int or window < 1 or is_used is False:
        return None
    return window


def _attention(
    config: Mapping[str, Any], family: Family, n: int
) -> Iterable[str | None]:
    for key in LAYER_LISTS:
        if (listed := _listed(config, key, n)) is not None:
            return [str(entry) for entry in listed]
    pattern = next(
        (
            value
            for key in ("sliding_window_pattern", "_sliding_window_pattern")
            if type(value := config.get(key)) is int
        ),
        0,
    )
    if pattern > 0:
        return [
            "full_attention" if (i + 1) % pattern == 0 else "sliding_attention"
            for i in range(n)
        ]
    usual = family.layer_types
    # Of recurrent layers the pattern is one of many: what is stored tells them.
    if all("attention" in kind and "linear" not in kind for kind in usual) and any(
        kind != FULL for kind in usual
    ):
        return [usual[i % len(usual)] for i in range(n)]
    filled = family.filled(config)
    first = filled.get("max_window_layers")
    if family.is_known and "max_window_layers" not in family.fields:
        first = None
    if filled.get("use_sliding_window") is True and type(first) is int:
        return [
            "sliding_attention" if i >= first else "full_attention" for i in range(n)
        ]
    return [None] * n


def _rotary(config: Mapping[str, Any], family: Family, n: int) -> Iterable[bool]:
    if (listed := _listed(config, "no_rope_layers", n)) is not None:
        return [bool(entry) for entry in listed]
    every = config.get("no_rope_layer_interval")
    if type(every) is int and every > 0:
        return [(i + 1) % every != 0 for i in range(n)]
    usual = family.no_rope_layers or (1,)
    return [bool(usual[i % len(usual)]) for i in range(n)]


def _listed(config: Mapping[str, Any], key: str, n: int) -> list[Any] | None:
    value = config.get(key)
    if not isinstance(value, list) or not value:
        return None
    if len(value) != n:
        raise CheckpointError(
            f"config.json: {key} has {len(value)} entries, but the model has {n} "
            "layers. The configuration belongs to another model."
        )
    return value


def _is_per_layer(key: str, value: Any, config: Mapping[str, Any]) -> bool:
    if not isinstance(value, list) or "layer" not in key or key in _INDEX_LISTS:
        return False
    return len(value) == (listed_layers(config) or config.get(layer_count_key(config)))


def _entry(source: Mapping[str, Any], key: str, layer: int) -> Any:
    value = source.get(key)
    if isinstance(value, list) and layer < len(value):
        return value[layer]
    raise CheckpointError(
        f"The frame's config.json has {key}, one entry for each layer, but that of "
        f"another input says nothing of its layer {layer}. Save that input again with "
        "the same version of transformers."
    )
