"""Rotary positions of a configuration, in one notation for all that were ever used."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.checkpoints.configs.families import Family

FULL = "full_attention"
SLIDING = "sliding_attention"
_NOTATIONS = ("scaling", "parameters")
"""Old and new; where both are given, the old one is read."""
KEYS: Mapping[str, tuple[str, Sequence[str]]] = {
    "rope_theta": ("rope_theta", (FULL, SLIDING)),
    "rotary_emb_base": ("rope_theta", (FULL, SLIDING)),
    "global_rope_theta": ("rope_theta", (FULL,)),
    "rope_local_base_freq": ("rope_theta", (SLIDING,)),
    "local_rope_theta": ("rope_theta", (SLIDING,)),
    "partial_rotary_factor": ("partial_rotary_factor", (FULL, SLIDING)),
    "rotary_pct": ("partial_rotary_factor", (FULL, SLIDING)),
}
"""Keys beside those notations: what they set, and for which kinds of layers where the
family is not known."""
_TYPES = {"su": "longrope", "mrope": "default", "ntk": "dynamic"}
"""Other words for a type."""
_ALWAYS = ("rope_type", "rope_theta", "partial_rotary_factor", "mrope_section")
_SCALED_FROM = "original_max_position_embeddings"
_OF_TYPE: Mapping[str, tuple[str, ...]] = {
    "default": (),
    "linear": ("factor",),
    "dynamic": ("factor", "alpha", _SCALED_FROM),
    "llama3": ("factor", "low_freq_factor", "high_freq_factor", _SCALED_FROM),
    "longrope": (
        *("short_factor", "long_factor", "factor", "attention_factor"),
        _SCALED_FROM,
    ),
    "yarn": (
        *("factor", "attention_factor", "beta_fast", "beta_slow", "truncate"),
        *("mscale", "mscale_all_dim", _SCALED_FROM),
    ),
}
"""What else each type reads; of an unknown one, everything is compared."""


def read_rotary(config: Mapping[str, Any], family: Family) -> dict[str, dict[str, Any]]:
    """Return the settings of rotary positions for each kind of layer.

    Args:
        config: ``config.json``, with the family's own names of keys.
        family: What it may leave out.

    Returns:
        Kind of layer to setting to value; only ``full_attention`` where all kinds are
        alike, and nothing where there are no such positions. Of an unknown family, a
        setting that is neither said nor follows is left out.
    """
    if family.is_known and not family.rope:
        return {}
    scaling, parameters = (_mapping(config, f"rope_{k}") for k in _NOTATIONS)
    said = scaling or parameters
    nested = {kind: v for kind, v in said.items() if isinstance(v, dict)}
    out = {}
    for kind in dict.fromkeys((FULL, *family.rope, *nested, *_local(config, family))):
        if nested:
            own = nested.get(kind, {})
        elif not scaling or not family.scaled or kind in family.scaled:
            own = said
        else:
            own = {}
        out[kind] = _settings(config, family, kind, own)
    return {kind: known for kind, known in out.items() if len(known) > 1}


def _mapping(config: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = config.get(key)
    return value if isinstance(value, dict) else {}


def _local(config: Mapping[str, Any], family: Family) -> list[str]:
    keys = ("rope_local_base_freq", "local_rope_theta")
    said = any(config.get(key) is not None for key in keys)
    return [SLIDING] if said and not family.is_known else []


def _settings(
    config: Mapping[str, Any], family: Family, kind: str, own: Mapping[str, Any]
) -> dict[str, Any]:
    """Return what a kind of layer has: said of it, said of all, or the family's."""
    found = {k: v for k, v in own.items() if v is not None and not isinstance(v, dict)}
    above: dict[str, Any] = {}
    for key, (setting, kinds) in KEYS.items():
        sets = family.read.get(key, ()) if family.is_known else kinds
        if kind in sets and config.get(key) is not None:
            above.setdefault(setting, config[key])
    usual = family.fill if found else family.rope
    usual_here = usual.get(kind) or usual.get(FULL, {})
    if usual_here.get("rope_type", "default") != "default":
        above = {}  # such a family's usual scaling comes with its base
    found = {**usual_here, **above, **found}
    named = found.pop("type", "default")
    word = str(found.get("rope_type", named))
    found["rope_type"] = (
        "longrope" if "long_factor" in found else _TYPES.get(word, word)
    )
    return _completed(found, family.filled(config))


def _completed(found: dict[str, Any], config: Mapping[str, Any]) -> dict[str, Any]:
    """Fill in what follows, and leave out what the type does not read."""
    kind = found["rope_type"]
    if kind not in ("default", "linear"):
        limit = config.get("max_position_embeddings")
        above = config.get(_SCALED_FROM)
        found[_SCALED_FROM] = above or found.get(_SCALED_FROM) or limit
        if kind in ("longrope", "yarn"):
            _fill_attention(found, limit)
    if kind == "linear" and found.get("factor") == 1:
        found["rope_type"] = kind = "default"
    if found.get("partial_rotary_factor") == 1:
        del found["partial_rotary_factor"]
    read = (*_ALWAYS, *_OF_TYPE.get(kind, tuple(found)))
    return {k: v for k, v in found.items() if k in read and v is not None}


def _fill_attention(found: dict[str, Any], limit: Any) -> None:
    """Fill in what YaRN and LongRoPE derive from the lengths."""
    original, factor = _number(found[_SCALED_FROM]), _number(found.get("factor"))
    if not factor and original:
        factor = found["factor"] = _number(limit) / original
    if not factor or not original:
        return
    if found["rope_type"] == "longrope":
        usual = math.sqrt(1 + math.log(max(factor, 1)) / math.log(max(original, 2)))
    else:
        found["beta_fast"] = found.get("beta_fast") or 32
        found["beta_slow"] = found.get("beta_slow") or 1
        found.setdefault("truncate", True)
        one, every = _number(found.get("mscale")), _number(found.get("mscale_all_dim"))
        usual = _mscale(factor, 1)
        if one and every:
            usual = _mscale(factor, one) / _mscale(factor, every)
    found.setdefault("attention_factor", usual)


def _mscale(factor: float, by: float) -> float:
    return 0.1 * by * math.log(factor) + 1.0 if factor > 1 else 1.0


def _number(value: Any) -> float:
    """Return a number from above zero as it is; zero for anything else."""
    is_number = type(value) in (int, float) and 0 < value < math.inf
    return float(value) if is_number else 0.0
