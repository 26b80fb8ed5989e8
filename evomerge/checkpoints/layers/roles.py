"""What a tensor is for, told from the words of its name, its shape and its kind."""

from __future__ import annotations

import re
from collections.abc import Sequence

from evomerge.checkpoints.layers.sizes import Sizes

BUFFER = "buffer"
"""Role of tensors that no operator may touch: copied from the frame."""

_NORM = re.compile(r".*norm.*|ln(_?[a-z0-9]+)?")
_ATTENTION = re.compile(r".*(attn|attention).*|W?qkv(_proj)?|query_key_value")
_FEED_FORWARD = re.compile(
    r"mlp|ffn|feed_?forward|block_sparse_moe|moe|fc\d|(gate|up|down|gate_up)_proj"
)
_ROUTER = re.compile(r".*router.*|gate|shared_expert_gate|wg")
_SHARED = re.compile(r"shared_(experts?|mlp)")
_RECOMPUTED = re.compile(
    r"(.*\.)?((.*_)?inv_freq|masked_bias|causal_mask|position_ids|token_type_ids"
    r"|(cos|sin)_cache(d)?|freqs_cis|rope\.freqs|embed_positions|alibi"
    r"|rotary_(pos_)?emb\.[^.]+)"
)
_MASKED = re.compile(r"(.*\.)?(attn|attention|self_attn)(\.attention)?\.bias")


def is_recomputed(name: str, shape: Sequence[int]) -> bool:
    """Tell whether a stored tensor is a table or a mask that every loader makes anew.

    Older savers stored them, newer ones do not; they decide nothing.
    """
    if _RECOMPUTED.fullmatch(name):
        return True
    # Old checkpoints of GPT-2 and GPT-NeoX store the causal mask as a bias.
    return _MASKED.fullmatch(name) is not None and len(shape) > 1


def role_in_layer(
    suffix: str, shape: Sequence[int], sizes: Sizes, *, is_float: bool
) -> str | None:
    """Return the role of a tensor of a layer.

    Args:
        suffix: Its name within the layer.
        shape: As stored.
        sizes: Of the model.
        is_float: Its elements are numbers that can be merged.

    Returns:
        One of ``core.catalogue.ROLES``, ``BUFFER``, or None if it is not understood.
    """
    words = suffix.split(".")
    leaf = words[-1]
    if leaf in ("weight", "bias"):
        words.pop()
    if not words or any(word.startswith("lora_") for word in words):
        return None
    if is_recomputed(suffix, shape):
        return BUFFER
    role = _role_of_weight(words, leaf, shape, sizes)
    return role or _counter(shape, is_float=is_float)


def _role_of_weight(
    words: list[str], leaf: str, shape: Sequence[int], sizes: Sizes
) -> str | None:
    if len(shape) == 1 or _NORM.fullmatch(words[-1]):
        return _small(words, leaf, shape)
    if len(shape) == 2:
        return _matrix(words, leaf, shape, sizes)
    if len(shape) == 3 and shape[0] == sizes.experts:
        return "expert" if any(map(_FEED_FORWARD.fullmatch, words)) else None
    return None


def role_outside(name: str, shape: Sequence[int], *, is_float: bool) -> str | None:
    """Return the role of a tensor before or after the layers that is no big matrix.

    Returns:
        ``norm``, ``bias``, ``BUFFER``, or None if it is not understood.
    """
    *words, leaf = name.split(".")
    if len(shape) == 1 and words:
        if leaf == "bias":
            return "bias"
        if leaf == "weight" and _NORM.fullmatch(words[-1]):
            return "norm"
    return _counter(shape, is_float=is_float)


def _counter(shape: Sequence[int], *, is_float: bool) -> str | None:
    """Return the role of what is no weight by its name: a few whole numbers are kept.

    A matrix of them is a packed weight, which nothing here can merge.
    """
    return BUFFER if not is_float and len(shape) < 2 else None


def _small(words: list[str], leaf: str, shape: Sequence[int]) -> str | None:
    if len(shape) > 2:
        return None
    if leaf == "bias" or leaf.endswith("_bias") or leaf == "sinks":
        return "bias"
    if leaf == "weight" or _NORM.fullmatch(leaf):
        return "norm"
    return None


def _matrix(
    words: list[str], leaf: str, shape: Sequence[int], sizes: Sizes
) -> str | None:
    if leaf.endswith("_bias"):
        return "bias" if shape[0] == sizes.experts else None
    if any(map(_ROUTER.fullmatch, words)):
        return "router" if shape[0] in (1, sizes.experts) else None
    if any(map(_SHARED.fullmatch, words)):
        return "expert"
    if "experts" in words:
        after = words[words.index("experts") + 1 :]
        return "expert" if after and after[0].isdecimal() else None
    if any(map(_ATTENTION.fullmatch, words)):
        return "attn"
    return "mlp" if any(map(_FEED_FORWARD.fullmatch, words)) else None
