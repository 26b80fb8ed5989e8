"""Scales on the inputs of layers, folded into the weights of an ordinary model.

A stack whose layer t multiplies its input by s_t computes h_t = x + f_t(x), where x is
s_t h_{t-1} and f_t begins with norms. Those do not see a positive factor, so with
c_t = s_1 ... s_t and u_t = h_t / c_t it computes u_t = u_{t-1} + f_t(u_{t-1}) / c_t: an
ordinary stack from the same embedding, whose layers add 1 / c_t as much (methods.md
E2; the final norm takes away the last factor). What is added is divided where it is
made: in the matrices and biases that write to the hidden state or, where a norm stands
behind them, in the gain of that norm. A matrix that reads the hidden state without a
norm is multiplied by c_t.

It is exact but for the epsilon of the norms, which stands beside the mean square of
u_t rather than of h_t.

How the layers of a family are wired to the hidden state that runs through them cannot
be told from names: ``post_attention_layernorm`` stands before the feed-forward block in
Llama and behind the attention in Gemma 2. So ``WIRINGS`` is a list, and a family that
is not on it is not understood.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate
from operator import mul
from typing import Any

from evomerge.checkpoints.model import Model
from evomerge.errors import RecipeError

_PAIR = frozenset({"input_layernorm", "post_attention_layernorm"})
_ONE = frozenset({"input_layernorm"})
_BEHIND = frozenset({"post_attention_layernorm", "post_feedforward_layernorm"})

_LLAMAS = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "granite", "smollm3"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "gpt_oss"),
    *("stablelm", "arcee", "seed_oss", "glm", "helium", "nemotron", "ernie4_5"),
    *("olmoe", "glm4_moe", "deepseek_v2", "deepseek_v3", "granitemoeshared"),
)

_ENDING = re.compile(r"(\.weight|\.bias|_bias)$")

Names = Mapping[str, str]
"""The tensors of a layer: name within it to role."""

_RANGE = {"float32": 2.0**64, "bfloat16": 2.0**64, "float16": 2.0**8}
"""Per element type, how far from 1 a factor may be before weights leave its range."""
_RANGE_SHIFTED = {"float32": 2.0**16, "bfloat16": 4.0, "float16": 32.0}
"""The same for divisors of a gain that is stored less 1, where digits are lost."""


@dataclass(frozen=True, slots=True)
class Wiring:
    """What of a layer reads the hidden state, and what is added to it.

    Attributes:
        norms: The norms over the hidden state, by their names in a layer.
        writes: Words for the matrices whose output is added, through a norm or not.
        behind: Those of the norms whose output is added.
        reads: Words for the matrices that read the hidden state with no norm between.
        shift: What a norm adds to its stored weight.
        needs: Configuration keys that must have this value if they are there at all.
    """

    norms: frozenset[str]
    writes: frozenset[str]
    behind: frozenset[str] = frozenset()
    reads: frozenset[str] = frozenset()
    shift: float = 0.0
    needs: tuple[tuple[str, Any], ...] = ()


_BEFORE = Wiring(_PAIR, frozenset({"o_proj", "down_proj", "w2", "output_linear"}))
_SANDWICHED = Wiring(
    _PAIR | {"pre_feedforward_layernorm", "post_feedforward_layernorm"},
    frozenset({"o_proj", "down_proj"}),
    behind=_BEHIND,
    shift=1.0,
)
_AFTER = Wiring(
    _BEHIND,
    frozenset({"o_proj", "down_proj"}),
    behind=_BEHIND,
    reads=frozenset({"q_proj", "k_proj", "v_proj", "gate_proj", "up_proj"}),
)


WIRINGS: Mapping[str, Wiring] = {
    **dict.fromkeys(_LLAMAS, _BEFORE),
    **dict.fromkeys(("gemma2", "gemma3_text"), _SANDWICHED),
    "olmo2": _AFTER,
    "starcoder2": Wiring(_PAIR, frozenset({"o_proj", "c_proj"})),
    "gpt_neox": Wiring(_PAIR, frozenset({"dense", "dense_4h_to_h"})),
    "bloom": Wiring(
        _PAIR,
        frozenset({"dense", "dense_4h_to_h"}),
        needs=(("apply_residual_connection_post_layernorm", False),),
    ),
    **dict.fromkeys(
        ("gpt2", "gpt_bigcode"),
        Wiring(frozenset({"ln_1", "ln_2"}), frozenset({"c_proj"})),
    ),
    "gpt_neo": Wiring(frozenset({"ln_1", "ln_2"}), frozenset({"out_proj", "c_proj"})),
    "gptj": Wiring(frozenset({"ln_1"}), frozenset({"out_proj", "fc_out"})),
    "phi": Wiring(_ONE, frozenset({"dense", "fc2"})),
    **dict.fromkeys(("cohere", "cohere2"), Wiring(_ONE, _BEFORE.writes)),
    "persimmon": Wiring(_PAIR, frozenset({"dense", "dense_4h_to_h"})),
    "opt": Wiring(
        frozenset({"self_attn_layer_norm", "final_layer_norm"}),
        frozenset({"out_proj", "fc2"}),
        needs=(("do_layer_norm_before", True), ("_remove_final_layer_norm", False)),
    ),
}
"""``model_type`` to its wiring."""


def stem_of(suffix: str) -> str:
    """Return a tensor's name in its layer without what tells weight from bias."""
    return _ENDING.sub("", suffix)


def word_of(suffix: str) -> str:
    """Return the last word of a tensor's name: which matrix it belongs to."""
    return stem_of(suffix).rsplit(".", 1)[-1]


@dataclass(frozen=True, slots=True)
class Fold:
    """What becomes of a tensor: ``(tensor + shift) * factor - shift``."""

    factor: float
    shift: float = 0.0


def cumulative(scales: Sequence[float]) -> tuple[float, ...]:
    """Return the factor on each layer's input that all scales up to it make."""
    return tuple(accumulate(scales, mul))


def folds_of(
    config: Mapping[str, Any],
    layers: Sequence[Names],
    scales: Sequence[float],
    dtype: str,
) -> tuple[dict[str, Fold], ...]:
    """Tell what becomes of every tensor when scales are folded into the weights.

    Args:
        config: Of the model as it is written.
        layers: Its layers.
        scales: Factor on the input of each.
        dtype: Element type it is written in.

    Returns:
        For each layer, the tensors that change.

    Raises:
        RecipeError: The result would not be the same function; the reason is given.
    """
    if all(scale == 1.0 for scale in scales):
        return tuple({} for _ in layers)
    _check_scales(scales)
    if reason := why_not(config, layers):
        raise RecipeError(
            f"The scales of this stack cannot be written into weights: {reason} Use "
            "scales of 1, or score it without writing it."
        )
    wiring = WIRINGS[str(config["model_type"])]
    divisors = cumulative(scales)
    _check_range(divisors, wiring, dtype)
    return tuple(
        _folds(wiring, names, divisor)
        for names, divisor in zip(layers, divisors, strict=True)
    )


def why_not(config: Mapping[str, Any], layers: Sequence[Names]) -> str | None:
    """Tell why scales do not fold into the weights of a model; None if they do."""
    family = str(config.get("model_type", ""))
    wiring = WIRINGS.get(family)
    if wiring is None:
        return (
            f"it is not known which tensors of a {family!r} model write to the hidden "
            f"state; it is known of {', '.join(sorted(WIRINGS))}."
        )
    for key, value in wiring.needs:
        if config.get(key, value) != value:
            return (
                f"config.json has {key} {config[key]!r}, where the hidden state "
                f"itself passes a norm; only {value!r} lets a factor through."
            )
    for index, names in enumerate(layers):
        if odd := _oddity(wiring, names):
            return f"layer {index} {odd}"
    return None


def unfoldable(model: Model) -> str | None:
    """Tell why scales do not fold into the weights of a stored model, if so."""
    return why_not(model.decoder, _layers(model))


def writers(model: Model) -> tuple[str, ...]:
    """Return what the layers of a model add to the hidden state by.

    Returns:
        Names within a layer of the matrices and biases whose output is added, and of
        the pieces that fused ones are merged by.

    Raises:
        RecipeError: They cannot be told, or a norm behind them takes every factor away.
    """
    if reason := unfoldable(model):
        raise RecipeError(reason)
    wiring = WIRINGS[str(model.decoder["model_type"])]
    if wiring.behind:
        raise RecipeError(
            "its layers have a norm behind their outputs, which takes a scale away "
            "again."
        )
    names: dict[str, None] = {}
    for place in model.places.values():
        if place.layer is not None and word_of(place.suffix) in wiring.writes:
            names |= dict.fromkeys((place.suffix, *(p.name for p in place.pieces)))
    return tuple(names)


def check_folds(model: Model, scales: Sequence[float], dtype: str) -> None:
    """Make sure that scales fold into the weights of a model; see ``folds_of``.

    Raises:
        RecipeError: They do not; the reason is given.
    """
    folds_of(model.decoder, _layers(model), scales, dtype)


def _layers(model: Model) -> list[dict[str, str]]:
    layers: list[dict[str, str]] = [{} for _ in range(model.n_layers)]
    for place in model.places.values():
        if place.layer is not None:
            layers[place.layer][place.suffix] = place.role
    return layers


def _check_scales(scales: Sequence[float]) -> None:
    for slot, scale in enumerate(scales):
        if not (math.isfinite(scale) and scale > 0):
            raise RecipeError(
                f"Slot {slot} scales its input by {scale!r}; only positive scales can "
                "be written into weights, because a norm does not see them."
            )


def _check_range(divisors: Sequence[float], wiring: Wiring, dtype: str) -> None:
    # Types of single tensors are not known here: the narrowest must hold.
    reach = _RANGE.get(dtype, min(_RANGE.values()))
    if wiring.shift:
        highest = _RANGE_SHIFTED.get(dtype, min(_RANGE_SHIFTED.values()))
    else:
        highest = reach
    for slot, divisor in enumerate(divisors):
        if not 1 / reach <= divisor <= highest:
            raise RecipeError(
                f"The scales up to slot {slot} multiply to {divisor:.4g}; in {dtype} "
                f"weights of this family only {1 / reach:.4g} to {highest:.4g} can be "
                "written without loss. Write the model in a wider element type."
            )


def _oddity(wiring: Wiring, names: Names) -> str | None:
    found = {stem_of(name) for name, role in names.items() if role == "norm"}
    norms = {stem for stem in found if "." not in stem}
    if norms != wiring.norms:
        return (
            f"has the norms {sorted(norms)}, where its family has "
            f"{sorted(wiring.norms)}."
        )
    writers = {r for name, r in names.items() if word_of(name) in wiring.writes}
    if "attn" not in writers or not writers & {"mlp", "expert"}:
        return (
            "lacks an attention or a feed-forward matrix that writes to the hidden "
            f"state; expected {sorted(wiring.writes)} among its names."
        )
    return None


def _folds(wiring: Wiring, names: Names, divisor: float) -> dict[str, Fold]:
    out: dict[str, Fold] = {}
    if divisor == 1.0:
        return out
    for name in names:
        word = word_of(name)
        if stem_of(name) in wiring.behind:
            out[name] = Fold(1 / divisor, wiring.shift)
        elif word in wiring.writes and not wiring.behind:
            out[name] = Fold(1 / divisor)
        elif word in wiring.reads and name.endswith(".weight"):
            out[name] = Fold(divisor)
    return out
