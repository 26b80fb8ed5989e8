"""What transformers takes for granted where a configuration is silent, as data.

``checkpoints`` never loads transformers, so what it must know of families lies in a
file beside it: ``make defaults`` writes it anew, and a test compares the two.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.checkpoints.configs.families import FILE
from evomerge.checkpoints.configs.rotary import KEYS

_HARMLESS = re.compile(
    # What a model is called, where it came from, how fast it is, what a call returns.
    r"transformers_version|architectures|_name_or_path|model_type|dtype|return_dict"
    r"|output_.*|use_cache|num_logits_to_keep|chunk_size_feed_forward|init_device"
    r"|pretraining_tp|use_mamba.*|residual_in_fp32|slow_but_exact|.*softmax_in_fp32"
    r"|reorder_and_upcast_attn|use_associative_scan|is_encoder_decoder|.*_kernel"
    # Tokens, and heads of other tasks.
    r"|.*_token_id|.*_token_index|tie_word_embeddings|(id2|num_)?labels?|label2id"
    r"|problem_type|classifier_.*|summary_.*|(start|end)_n_top|.*prompt.*"
    # What matters in training only.
    r"|.*(dropout|pdrop|dropout_p|layerdrop|jitter_noise|loss_coef(ficient)?)(_prob)?"
    r"|init(ializer)?_.*|.*_initializer_.*|.*_std(_dev)?|rescale_prenorm_residual"
    r"|.*dropout_prob|time_step_.*|linear_(a_log|dt)_.*"
    # Sizes that shapes tell, and matrices and biases that are there or not.
    r"|.*(hidden|intermediate|vocab|ffn|state|embedding)_size(_.*)?|n_embd|n_inner"
    r"|d_model|.*ffn_dim|num_(hidden_)?layers|n_layers?|.*lora_rank|.*_proj_dim"
    r"|(moe_)?num_(local_)?experts|n_routed_experts|n(um)?_shared_experts"
    r"|moe_num_shared_experts|.*(use|enable)_bias|(.*_)?bias|expansion_ratio|ffn_dim.*"
    r"|num_(nextn_predict|mtp)_layers|mtp_.*"
    # Told from stored experts, or one entry for each layer.
    r"|.*_layer_types|moe_layers|mlp_only_layers|decoder_sparse_step"
    r"|first_k_dense_replace|layer_rope_theta"
)
_PARTS = ("attn_config", "ffn_config")
_WINDOWED = ("layer_types", "sliding_window")
_DEPTHS = (23, 24)
_LONGEST = 8
"""Longest pattern of layers that is looked for."""
_MARK = 0.6875
"""A value that nothing has by itself."""
_SCALED = {"rope_type": "linear", "factor": 8.0}


def config_defaults() -> dict[str, dict[str, Any]]:
    """Return, for each causal language model, what its configuration may leave out."""
    from transformers import CONFIG_MAPPING
    from transformers.models.auto import modeling_auto

    out: dict[str, dict[str, Any]] = {}
    for family in sorted(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES):
        kind = CONFIG_MAPPING[family]
        try:
            usual = kind().to_dict()
        except Exception:  # noqa: BLE001
            continue  # made of other models
        if not usual["is_encoder_decoder"] and not _has_models(usual):
            found = _fields(kind, usual) | _rope(kind, usual)
            out[family] = {key: value for key, value in found.items() if value}
    return json.loads(json.dumps(out, sort_keys=True))  # type: ignore[no-any-return]


def text() -> str:
    """Return the file: a line for each family."""
    lines = (
        f"{json.dumps(family)}: {json.dumps(known, separators=(',', ':'))}"
        for family, known in config_defaults().items()
    )
    return "{\n" + ",\n".join(lines) + "\n}\n"


def _has_models(usual: Mapping[str, Any]) -> bool:
    return any(key.endswith("_config") and key not in _PARTS for key in usual)


def _fields(kind: Any, usual: Mapping[str, Any]) -> dict[str, Any]:
    fields: dict[str, Any] = {}
    derived = []
    for field in dataclasses.fields(kind):
        name, value = field.name, field.default
        if name not in usual or _HARMLESS.fullmatch(name) or name.startswith("rope_p"):
            continue
        if name == "layer_types" or (value is None and name == "head_dim"):
            fields[name] = None
        elif value != usual[name] and name != "sliding_window":
            derived.append(name)
        else:
            fields[name] = value
    patterns = _layers(kind)
    if "layer_types" in fields and not patterns.get("layer_types"):
        # Which layers have the window cannot be told.
        fields = {k: v for k, v in fields.items() if k not in _WINDOWED}
    names = {k: v for k, v in kind.attribute_map.items() if v in fields}
    return {"fields": fields, "derived": derived, "names": names, **patterns}


def _rope(kind: Any, usual: Mapping[str, Any]) -> dict[str, Any]:
    """Return rotary positions where nothing is said of them, and where a bit is."""
    silent = _by_kind(usual.get("rope_parameters") or {})
    if not silent:
        return {}
    try:
        spoken = _by_kind(kind(rope_scaling=dict(_SCALED)).rope_parameters)
    except Exception:  # noqa: BLE001
        spoken, scaled = silent, list(silent)  # it takes another kind of scaling only
    else:
        scaled = [k for k, known in spoken.items() if known.get("factor") == 8.0]
    fill = {
        k: {
            n: v
            for n, v in known.items()
            if n in ("rope_theta", "partial_rotary_factor")
        }
        for k, known in spoken.items()
    }
    read = {key: _changed(kind, key, silent) for key in KEYS}
    return {
        "rope": silent,
        "fill": fill,
        "scaled": scaled,
        "read": {key: kinds for key, kinds in read.items() if kinds},
    }


def _changed(kind: Any, key: str, silent: Mapping[str, Any]) -> list[str]:
    """Return the kinds of layers whose rotary positions follow a key."""
    out = []
    for said in ({}, {"rope_scaling": dict(_SCALED)}):
        try:
            found = _by_kind(kind(**{key: _MARK}, **said).rope_parameters)
        except Exception:  # noqa: BLE001
            continue
        out += [k for k in silent if _MARK in found.get(k, {}).values()]
    return sorted(set(out))


def _by_kind(parameters: Mapping[str, Any]) -> dict[str, Any]:
    if all(isinstance(value, dict) for value in parameters.values()):
        return dict(parameters)
    return {"full_attention": dict(parameters)}


def _layers(kind: Any) -> dict[str, Any]:
    """Return the patterns of layers that repeat where none is said."""
    count = kind.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    try:
        configs = [kind(**{count: n}) for n in _DEPTHS]
    except Exception:  # noqa: BLE001
        return {}
    out = {}
    for name in ("layer_types", "no_rope_layers"):
        pattern = _pattern([getattr(config, name, None) or [] for config in configs])
        if pattern:
            out[name] = pattern
    return out


def _pattern(lists: Sequence[Sequence[Any]]) -> list[Any]:
    for length in range(1, _LONGEST + 1):
        if all(
            list(one) == [one[i % length] for i in range(len(one))] for one in lists
        ):
            return list(lists[0][:length])
    return []


if __name__ == "__main__":
    FILE.write_text(text(), encoding="utf-8")
