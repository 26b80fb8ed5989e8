"""Quantised weights, told from stored tensors and named as what they are."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoints.header import TensorInfo
from evomerge.errors import CheckpointError

KEYS = ("quantization_config", "compression_config")
"""Keys of ``config.json`` that say how weights are packed."""

_PACKED = (
    ("bitsandbytes in 4 bits", r".*\.(absmax|quant_map|nested_absmax|quant_state\..*)"),
    ("bitsandbytes in 8 bits", r".*\.(SCB|weight_format)"),
    ("compressed-tensors", r".*\.weight_(packed|shape|zero_point|g_idx)"),
    ("GPTQ", r".*\.g_idx"),
    ("AWQ or GPTQ", r".*\.qweight|.*\.qzeros"),
    ("AQLM", r".*\.codebooks"),
    ("HQQ", r".*\.W_q"),
    ("8-bit floats with scales (FP8)", r".*\.(weight_scale(_inv)?|input_scale)"),
    ("MXFP4", r".*_blocks"),
)
"""What only a quantised model stores, by name; the first that is found."""
_METHODS = {
    "gptq": "GPTQ",
    "awq": "AWQ",
    "fp8": "8-bit floats with scales (FP8)",
    "fbgemm_fp8": "8-bit floats with scales (FP8)",
    "mxfp4": "MXFP4",
    "bitsandbytes": "bitsandbytes",
    "compressed-tensors": "compressed-tensors",
    "aqlm": "AQLM",
    "hqq": "HQQ",
}
_STEP = (
    "Quantised weights cannot be merged: use the model it was made from, in 16 bits, "
    "or write its weights back in 16 bits first (transformers: load it, "
    "`dequantize()`, `save_pretrained`)."
)


def refuse_quantised(
    folder: Path, config: Mapping[str, Any], tensors: Mapping[str, TensorInfo]
) -> None:
    """Refuse weights that are packed, by the name of how they are.

    Raises:
        CheckpointError: They are.
    """
    for form, pattern in _PACKED:
        found = next((n for n in tensors if re.fullmatch(pattern, n)), None)
        if found is not None:
            raise CheckpointError(
                f"{folder}: the model is quantised: {_named(config) or form}, as "
                f"tensor {found!r} of type {tensors[found].dtype} shows. {_STEP}"
            )
    packed = next((t for t in tensors.values() if _is_packed(t)), None)
    if packed is not None and _named(config):
        raise CheckpointError(
            f"{folder}: the model is quantised: {_named(config)}, and stores "
            f"{packed.name!r} as whole numbers ({packed.dtype}). {_STEP}"
        )


def say_quantised(config: Mapping[str, Any], error: CheckpointError) -> CheckpointError:
    """Return the error for weights of an element type that is not read."""
    form = _named(config)
    said = f" The model is quantised: {form}. {_STEP}" if form else f" {_STEP}"
    return CheckpointError(f"{error}{said}")


def without_left_over(
    config: Mapping[str, Any],
) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Take keys out of a configuration that speak of packed weights where none are.

    Returns:
        The rest, and what must be said: nothing of a key without a value.
    """
    found = [key for key in KEYS if config.get(key) is not None]
    rest = {key: value for key, value in config.items() if key not in KEYS}
    return rest, tuple(
        f"config.json has {key} ({_method(config[key]) or 'no method'}), but all "
        "weights are plain numbers: they are merged as such, and the result is without "
        "the key. Remove it before an engine loads the model from this folder."
        for key in found
    )


def _is_packed(tensor: TensorInfo) -> bool:
    return not tensor.is_float and len(tensor.shape) > 1


def _named(config: Mapping[str, Any]) -> str:
    method = next((_method(config.get(key)) for key in KEYS if config.get(key)), "")
    return _METHODS.get(method, method)


def _method(said: Any) -> str:
    if not isinstance(said, Mapping):
        return ""
    return str(said.get("quant_method") or said.get("format") or "")
