"""What decides how equal weights compute, read from two configurations and compared.

Configurations say one thing in several notations and leave out what their family takes
for granted. So values are compared by meaning, with the family's own defaults filled
in; of a family that transformers does not know, what only one file says is a remark.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.checkpoints.configs.families import Family, family_of
from evomerge.checkpoints.configs.layer_types import LayerType, windows
from evomerge.checkpoints.configs.rotary import FULL, read_rotary

Kind = Literal[
    "rope",
    "window",
    "layer_types",
    "activation",
    "soft_caps",
    "scales",
    "routing",
    "other",
    "family",
]
KINDS: dict[str, str] = {
    "rope": "equal weights would see other positions",
    "window": "equal weights would see other tokens",
    "layer_types": "equal weights would compute something else",
    "activation": "equal weights would compute something else",
    "soft_caps": "equal weights would give other values",
    "scales": "equal weights would give other values",
    "routing": "tokens would go to other experts",
    "other": "equal weights would compute something else",
    "family": "equal weights may compute something else",
}
"""Kinds of differences that a file may allow, and what each of them does."""

_NAMED = (
    ("epsilon", r".*eps(ilon)?(_.*)?"),
    (
        "positions",
        r"max_position_embeddings|n_positions|n_ctx|max_seq_len|max_sequence_length"
        r"|model_max_length|seq_length|context_length|original_max_position_embeddings",
    ),
    (
        "rope",
        r"rope_.*|rotary_.*|.*rope_theta|alibi|.*pos_emb.*|position_embedding_type",
    ),
    ("window", r".*window.*|.*chunk_size|local_attention|attention_types"),
    ("activation", r".*(hidden|mamba)_act(ivation)?|.*activation(_function)?|afn"),
    ("soft_caps", r".*soft_?cap.*|swiglu_limit|clip_qkv"),
    (
        "routing",
        r".*top_?k.*|num_experts_per_tok(en)?|experts_per_token|moe_k|n(um)?_.*group"
        r"|scoring_func|moe_renormalize|moe_norm_min|expert_selection_fn",
    ),
    (
        "scales",
        r".*(multipliers?|scale|scaling|scaling_factor|alpha|(alpha|beta)_factor)"
        r"|scale_.*|query_pre_attn_scalar|dim_model_base|mup_.*|.*rescale.*",
    ),
)
SMALL = ("epsilon", "positions")
"""Kinds of differences that are told, but keep no models apart."""
_READ_BY_MEANING = frozenset(
    (
        *("num_attention_heads", "n_head", "n_heads", "num_heads", "head_dim"),
        *("num_key_value_heads", "num_kv_heads", "n_head_kv"),
        *(
            "layer_types",
            "no_rope_layers",
            "no_rope_layer_interval",
            "max_window_layers",
        ),
        *("sliding_window", "use_sliding_window", "sliding_window_pattern"),
        *("_sliding_window_pattern", "rope_theta", "rope_scaling", "rope_parameters"),
        *("rotary_emb_base", "rotary_pct", "partial_rotary_factor", "model_type"),
        *("rope_local_base_freq", "local_rope_theta", "global_rope_theta"),
    )
)
"""Keys whose meaning depends on others, or that shapes tell."""
_ABSENT = object()
_LONGEST = 60
"""Characters of a value that a message shows."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that two models do not have in common.

    Attributes:
        kind: One of ``KINDS``, or of ``SMALL``.
        text: What differs, with both models and both values.
        is_doubt: Only one of the two says it, and what the other takes is not known.
    """

    kind: str
    text: str
    is_doubt: bool = False


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a model computes with its weights, beside their shapes.

    Attributes:
        name: What messages call the model.
        config: Its ``config.json``.
        types: Of its layers.
    """

    name: str
    config: Mapping[str, Any]
    types: Sequence[LayerType]

    @property
    def family(self) -> Family:
        """What is known of its family."""
        return family_of(self.config)

    @property
    def rotary(self) -> dict[str, dict[str, Any]]:
        """Rotary positions by kind of layer."""
        return read_rotary(self.family.said(self.config), self.family)


def differences(one: Meaning, other: Meaning, *, same_depth: bool) -> list[Difference]:
    """List what decides how weights compute and is not the same.

    Args:
        one: The yardstick; where depths may differ, what layers are set into.
        other: Compared with it, and of the same family.
        same_depth: Layers meet one by one.
    """
    found = [*_rotary(one, other), *_settings(one, other)]
    layers = _layers if same_depth else _stacked
    return [*layers(one, other), *found]


def _rotary(one: Meaning, other: Meaning) -> Iterator[Difference]:
    a, b = one.rotary, other.rotary
    for kind in dict.fromkeys((*a, *b)):
        ours, theirs = (known.get(kind) or known.get(FULL) or {} for known in (a, b))
        if not ours or not theirs:
            if not one.family.is_known:
                yield from _doubt(
                    "rope", "rotary positions", (one, ours), (other, theirs)
                )
            continue
        prefix = "" if kind == FULL else kind.removesuffix("_attention") + " "
        # Another type has other settings, which need not be listed.
        keys = [k for k in dict.fromkeys((*ours, *theirs)) if k in ours and k in theirs]
        odd = [key for key in keys if ours[key] != theirs[key]]
        lone = [] if odd else sorted(ours.keys() ^ theirs.keys())
        for key in sorted(odd, key=lambda k: k != "rope_type")[:1]:
            yield Difference(
                "rope",
                f"{other.name!r} has rotary positions with {prefix}{key} "
                f"{_shown(theirs[key])}, but {one.name!r} with {_shown(ours[key])}",
            )
        for key in lone:
            yield _lone(one, other, f"{prefix}{key}", ours.get(key), theirs.get(key))


def _lone(one: Meaning, other: Meaning, key: str, a: Any, b: Any) -> Difference:
    """Return what to say of a setting of rotary positions that only one has."""
    is_usual = key.endswith(("rope_theta", "partial_rotary_factor"))
    return Difference(
        "rope",
        f"{other.name!r} has rotary positions with {key} {_shown(b, 'left out')}, but "
        f"{one.name!r} with {_shown(a, 'left out')}",
        is_doubt=is_usual and not one.family.is_known,
    )


def _doubt(
    kind: str, what: str, one: tuple[Meaning, Any], other: tuple[Meaning, Any]
) -> Iterator[Difference]:
    """Tell of what only one of two models says."""
    for (sayer, value), (silent, nothing) in ((one, other), (other, one)):
        if value and not nothing:
            yield Difference(
                kind,
                f"{sayer.name!r} says {what} {_shown(value)}, but {silent.name!r} "
                "nothing of it",
                is_doubt=True,
            )


def _settings(one: Meaning, other: Meaning) -> Iterator[Difference]:
    family = one.family
    a, b = (family.said(model.config) for model in (one, other))
    if family.is_known:
        keys = sorted({*family.fields, *family.derived} - _READ_BY_MEANING)
    else:
        keys = sorted(k for k in a.keys() | b.keys() if kind_of(k) != "other")
    for key in keys:
        ours, theirs = (c.get(key, family.fields.get(key, _ABSENT)) for c in (a, b))
        kind = kind_of(key)
        if ours is _ABSENT or theirs is _ABSENT:
            if not family.is_known and kind not in SMALL:
                said = [None if v is _ABSENT else v for v in (ours, theirs)]
                yield from _doubt(kind, key, (one, said[0]), (other, said[1]))
        elif not _are_equal(ours, theirs):
            yield Difference(
                kind,
                f"{other.name!r} has {key} {_shown(theirs)}, but {one.name!r} has "
                f"{_shown(ours)}",
            )


def kind_of(key: str) -> str:
    """Return the kind of difference that a key of a configuration makes."""
    if key in _READ_BY_MEANING:
        return "other"
    return next((kind for kind, words in _NAMED if re.fullmatch(words, key)), "other")


def _are_equal(one: Any, other: Any) -> bool:
    """Compare values; of mappings what both hold, as the rest has defaults."""
    if isinstance(one, dict) and isinstance(other, dict):
        return all(
            _are_equal(one[key], other[key]) for key in one.keys() & other.keys()
        )
    return bool(one == other)


def _layers(one: Meaning, other: Meaning) -> Iterator[Difference]:
    if len(one.types) != len(other.types):
        return
    pairs = list(zip(one.types, other.types, strict=True))
    odd = [i for i, (ours, theirs) in enumerate(pairs) if not ours.fits(theirs)]
    if odd:
        ours, theirs = pairs[odd[0]]
        yield Difference(
            "layer_types",
            f"{len(odd)} layers are of different types, for example layer {odd[0]}: "
            f"{theirs} in {other.name!r}, {ours} in {one.name!r}",
        )
    seen = list(zip(_windows(one), _windows(other), strict=True))
    far = [i for i, (a, b) in enumerate(seen) if i not in odd and a != b]
    if far:
        a, b = seen[far[0]]
        yield Difference(
            "window",
            f"{len(far)} layers look back over different numbers of tokens, for "
            f"example layer {far[0]}: {_far(b)} in {other.name!r}, {_far(a)} in "
            f"{one.name!r}",
        )


def _stacked(one: Meaning, other: Meaning) -> Iterator[Difference]:
    """Compare layers that keep their type, but run with one configuration."""
    ours, seen = one.types, _windows(one)
    for i, (kind, window) in enumerate(zip(other.types, _windows(other), strict=True)):
        alike = [j for j, known in enumerate(ours) if kind.fits(known)]
        if not alike:
            known = "; ".join(sorted({str(known) for known in ours}))
            yield Difference(
                "layer_types",
                f"Layer {i} of {other.name!r} has {kind}, but {one.name!r} has no such "
                f"layers, only {known}: nothing could run it there",
            )
            return
        if window not in {seen[j] for j in alike}:
            yield Difference(
                "window",
                f"Layer {i} of {other.name!r} looks back over {_far(window)}, but such "
                f"layers of {one.name!r} over {_far(seen[alike[0]])}",
            )
            return


def _windows(model: Meaning) -> tuple[int | None, ...]:
    return windows(model.config, model.types)


def _far(window: int | None) -> str:
    return "all tokens" if window is None else f"{window} tokens"


def _shown(value: Any, nothing: str = "None") -> str:
    text = nothing if value is None else repr(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."
