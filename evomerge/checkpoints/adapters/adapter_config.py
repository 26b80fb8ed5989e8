"""What ``adapter_config.json`` says of a low-rank adapter, in PEFT's terms.

Only plain LoRA (Hu et al., 2106.09685) and its rank-stabilised scale (2312.03732) can
be folded into the weights of a base model as they stand; whatever else a configuration
asks for is refused by name, since leaving it out would give another model.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.checkpoints.documents import read_json
from evomerge.errors import CheckpointError

ADAPTER_CONFIG = "adapter_config.json"

_OTHER_METHODS: Mapping[str, str] = {
    "use_dora": "DoRA: it scales every row by a learned magnitude",
    "lora_bias": "LoRA with biases of its own",
    "layer_replication": "LoRA over repeated layers",
    "target_parameters": "LoRA of fused parameters",
    "trainable_token_indices": "single trained tokens",
    "alora_invocation_tokens": "activated LoRA: it acts on some tokens only",
    "use_qalora": "quantised LoRA",
    "use_bdlora": "block-diagonal LoRA",
    "arrow_config": "routed LoRA",
}
"""Keys that, where set, make an adapter more than ``W + s B A``."""

_MOVED_BASES = ("pissa", "olora", "corda", "loftq", "lora_ga")
"""Initialisations that also change the base; the file then fits the changed one."""

_QUANTIFIED_GROUP = re.compile(r"\)[*+?{]")
_MOST_QUANTIFIERS, _MOST_CHARACTERS = 4, 200


@dataclass(frozen=True, slots=True)
class AdapterConfig:
    """How the factors of an adapter are scaled.

    Attributes:
        rank: Rank of every pair of factors that no pattern names.
        alpha: Likewise the numerator of the scale.
        ranks: Pattern of a module's name to its own rank, first match first.
        alphas: Likewise the numerator.
        rank_stabilised: Divide by the root of the rank, not by the rank.
        transposed: Weights of the base are stored ``(in, out)``.
        base: What the adapter says it was trained on; a name, not checked.
    """

    rank: int
    alpha: float
    ranks: tuple[tuple[str, int], ...] = ()
    alphas: tuple[tuple[str, float], ...] = ()
    rank_stabilised: bool = False
    transposed: bool = False
    base: str = ""

    def rank_of(self, module: str) -> int:
        """Return the rank of a module's factors."""
        return int(_first(self.ranks, module, self.rank))

    def scale_of(self, module: str) -> float:
        """Return ``s`` of ``W + s B A``: alpha over the rank or over its root."""
        rank = self.rank_of(module)
        alpha = _first(self.alphas, module, self.alpha)
        return alpha / (math.sqrt(rank) if self.rank_stabilised else rank)


def read_adapter_config(folder: Path) -> AdapterConfig:
    """Read and check the configuration of an adapter.

    Raises:
        CheckpointError: It is missing, malformed, or of a kind that is not folded.
    """
    file = folder / ADAPTER_CONFIG
    data = read_json(file)
    _refuse_other_kinds(file, data)
    return AdapterConfig(
        rank=_rank(file, "r", data.get("r", 8)),
        alpha=_number(file, "lora_alpha", data.get("lora_alpha", 8)),
        ranks=tuple(
            (p, _rank(file, k, v)) for k, p, v in _patterns(file, data, "rank")
        ),
        alphas=tuple(
            (p, _number(file, k, v)) for k, p, v in _patterns(file, data, "alpha")
        ),
        rank_stabilised=bool(data.get("use_rslora")),
        transposed=bool(data.get("fan_in_fan_out")),
        base=str(data.get("base_model_name_or_path") or ""),
    )


def _refuse_other_kinds(file: Path, data: Mapping[str, Any]) -> None:
    kind = str(data.get("peft_type", "")).upper()
    if kind != "LORA":
        raise CheckpointError(
            f"{file}: peft_type is {data.get('peft_type')!r}; only LORA can be folded "
            "into a model here. Merge this adapter with PEFT and give the merged model."
        )
    for key, what in _OTHER_METHODS.items():
        if data.get(key):
            raise CheckpointError(
                f"{file}: {key} is set ({what}); only plain LoRA can be folded into a "
                "model here. Merge this adapter with PEFT and give the merged model."
            )
    start = str(data.get("init_lora_weights", "")).lower()
    if start.startswith(_MOVED_BASES):
        raise CheckpointError(
            f"{file}: init_lora_weights is {start!r}, which also changed the base, so "
            "the adapter does not fit the base as published. Save it again as a plain "
            "LoRA (path_initial_model_for_weight_conversion), or give the merged model."
        )


def _patterns(
    file: Path, data: Mapping[str, Any], what: str
) -> list[tuple[str, str, Any]]:
    """Return key, pattern and value of everything a pattern map holds."""
    written = data.get(f"{what}_pattern") or {}
    if not isinstance(written, dict):
        raise CheckpointError(
            f"{file}: {what}_pattern should map names of modules to numbers, got "
            f"{written!r}."
        )
    for pattern in written:
        _check_pattern(file, what, pattern)
    return [(f"{what}_pattern.{p}", p, value) for p, value in written.items()]


def _check_pattern(file: Path, what: str, pattern: str) -> None:
    """Patterns are a stranger's regular expressions: keep to those that end soon."""
    slow = (
        len(pattern) > _MOST_CHARACTERS
        or _QUANTIFIED_GROUP.search(pattern)
        or sum(pattern.count(sign) for sign in "*+{") > _MOST_QUANTIFIERS
    )
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError):
        slow = True
    if slow:
        raise CheckpointError(
            f"{file}: {what}_pattern has {pattern[:80]!r}: expected the name of a "
            "module or a simple pattern of one, without repeated groups."
        )


def _first(patterns: tuple[tuple[str, float], ...], module: str, usual: float) -> float:
    """Return the value of the first pattern that ends the name, as PEFT matches."""
    for pattern, value in patterns:
        if re.fullmatch(rf"(?:.*\.)?(?:{pattern})", module):
            return value
    return usual


def _rank(file: Path, key: str, value: Any) -> int:
    if type(value) is not int or value < 1:
        raise CheckpointError(
            f"{file}: {key} should be a whole number from 1 up, got {value!r}; an "
            "adapter without a rank changes nothing. Save it again with PEFT."
        )
    return value


def _number(file: Path, key: str, value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise CheckpointError(f"{file}: {key} should be a number, got {value!r}.")
    if not math.isfinite(value):
        raise CheckpointError(f"{file}: {key} should be finite, got {value!r}.")
    return float(value)
