"""How the layers of families are wired to the hidden state that runs through them.

Names alone do not tell it: ``post_attention_layernorm`` stands before the feed-forward
block in Llama and behind the attention in Gemma 2. So this is a list, and a family that
is not on it is not understood.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


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


_PAIR = frozenset({"input_layernorm", "post_attention_layernorm"})
_ONE = frozenset({"input_layernorm"})
_BEHIND = frozenset({"post_attention_layernorm", "post_feedforward_layernorm"})

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

_LLAMAS = (
    *("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "granite", "smollm3"),
    *("mixtral", "qwen2_moe", "qwen3_moe", "granitemoe", "gpt_oss"),
    *("stablelm", "arcee", "seed_oss", "glm", "helium", "nemotron", "ernie4_5"),
    *("olmoe", "glm4_moe", "deepseek_v2", "deepseek_v3", "granitemoeshared"),
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

_ENDING = re.compile(r"(\.weight|\.bias|_bias)$")


def stem_of(suffix: str) -> str:
    """Return a tensor's name in its layer without what tells weight from bias."""
    return _ENDING.sub("", suffix)


def word_of(suffix: str) -> str:
    """Return the last word of a tensor's name: which matrix it belongs to."""
    return stem_of(suffix).rsplit(".", 1)[-1]
