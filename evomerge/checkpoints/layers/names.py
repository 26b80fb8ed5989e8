"""What each tensor is for, told from the words of its name, its shape and its kind."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from evomerge.checkpoints.configs.families import Sizes
from evomerge.checkpoints.header import TensorInfo

BUFFER = "buffer"
"""Role of tensors that no operator may touch: copied from the frame."""

_NORM = re.compile(r".*norm.*|ln(_?[a-z0-9]+)?")
_ATTENTION = re.compile(r".*(attn|[Aa]ttention).*|[Ww]?qkv(_proj)?|query_key_value")
_FEED_FORWARD = re.compile(
    r"mlp|ffn?s?(_output)?|feed_?forward|DenseReluDense|block_sparse_moe|moe|fc\d|(gate|up|down|gate_up)_proj"
    r"|(.*_)?intermediate|.*bottleneck.*|laurel|per_layer_(input_gate|projection)|linear"
)
_ROUTER = re.compile(r".*router.*|gate|shared_expert_gate|wg")
_COEFFICIENTS = re.compile(r"altup|hc_.*|.*_coefs")
"""Small matrices that weigh streams of the hidden state."""
_MIXER = re.compile(
    r".*(mamba|mixer|ssm|linear_attn|recurrent|rg_lru|temporal|lstm|rwkv).*|.*conv.*"
)
"""Blocks that mix tokens as attention does, by a recurrence or a short convolution."""
_CONVOLUTION = re.compile(r".*conv.*")
_STATE = re.compile(
    r"A|D|A_log|dt(_.*)?|.*_(decay|dt)|(time|slope)_.*|(input|recurrent)_gate_.*"
    r"|recurrent_param|learnable_skip|.*gate_(pre)?act.*"
)
"""Parameters of a recurrence: decay, step, skip, initial state."""
_SHARED = re.compile(r"shared_(experts?|mlp)")
_TABLE = re.compile(r".*embed.*|.*_emb|.*proj(ect(ion)?(s|_in)?)?|.*_table|.*_mlp_.*")
_ONE_OF_ALL = re.compile(r"(expert_)?\d+")
"""What an expert's own matrices are told by, behind the word for all of them."""
_BEHIND = re.compile(
    r"(^|\.)(lm_head|cls|pooler|.*_predictions?|prediction|head|unembed.*|project_out"
    r"|.*unembed.*|.*_head)\."
)
"""What stands between the layers and the output head."""
_RECOMPUTED = re.compile(
    r"(.*\.)?((.*_)?inv_freq|masked_bias|causal_mask|position_ids|token_type_ids"
    r"|(cos|sin)_cache(d)?|freqs_cis|rope\.freqs|embed_positions|alibi"
    r"|rotary_(pos_)?emb\.[^.]+)"
)
_MASKED = re.compile(r"(.*\.)?(attn|attention|self_attn)(\.attention)?\.bias")


def is_transposed(layer: Mapping[str, TensorInfo]) -> bool:
    """Tell whether a layer's matrices are stored as [in, out].

    A bias is as long as its matrix has outputs; one that fits the second axis alone
    gives the layer away (GPT-2).
    """
    for name, info in layer.items():
        bias = layer.get(name.removesuffix(".weight") + ".bias")
        if name.endswith(".weight") and bias and len(info.shape) == 2:
            rows, columns = info.shape
            if rows != columns:
                return bias.shape == (columns,)
    return False


def experts_transposed(layer: Mapping[str, TensorInfo], sizes: Sizes) -> bool:
    """Tell whether a layer's 3-D experts are stored as [expert, in, out].

    What goes into the gate is as wide as the hidden state, and so is what comes out of
    the down projection.
    """
    for name, info in layer.items():
        if len(info.shape) != 3:
            continue
        rows, columns = info.shape[1:]
        if rows == columns or sizes.hidden not in (rows, columns):
            continue
        comes_out = "down" in name or "output" in name
        return (rows == sizes.hidden) != comes_out
    return False


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
    if not is_float and (kept := _counter(shape, is_float=is_float)):
        return _role_of_weight(words, leaf, shape, sizes) or kept
    return _role_of_weight(words, leaf, shape, sizes) or _rare(words, leaf, shape)


def _role_of_weight(
    words: list[str], leaf: str, shape: Sequence[int], sizes: Sizes
) -> str | None:
    if len(shape) == 1 or _NORM.fullmatch(words[-1]):
        return _small(words, leaf, shape)
    if len(shape) == 2:
        return _matrix(words, leaf, shape, sizes)
    if len(shape) == 3 and shape[0] == sizes.experts:
        if "experts" in words and any(map(_ATTENTION.fullmatch, words)):
            return "attn"
        return "expert" if any(map(_FEED_FORWARD.fullmatch, words)) else None
    if len(shape) == 3 and any(map(_SHARED.fullmatch, words)):
        return "expert"
    is_wave = any(map(_CONVOLUTION.fullmatch, words))
    if len(shape) == 3 and shape[2] == 1 and not is_wave:
        return _matrix(words, leaf, shape[:2], sizes)  # written as a convolution
    # A matrix whose outputs are written as heads and what each of them has (XLNet).
    if tuple(shape) == (sizes.hidden, sizes.heads, sizes.head):
        return "attn" if any(map(_ATTENTION.fullmatch, words)) else None
    return None


def _rare(words: list[str], leaf: str, shape: Sequence[int]) -> str | None:
    """Return the role of what few families have: blocks with a state, and scalars."""
    own = words[-1] if leaf in ("weight", "bias") else leaf
    mixes = any(map(_MIXER.fullmatch, words))
    is_vector = sum(length > 1 for length in shape) < 2
    if own.endswith("_embed") and any(map(_ATTENTION.fullmatch, words)):
        return "bias"  # of segments, for each head
    if _STATE.fullmatch(own) and (mixes or any(map(_ATTENTION.fullmatch, words))):
        return "state" if is_vector or leaf != "weight" else "attn"
    if any(map(_CONVOLUTION.fullmatch, words)) and len(shape) > 2:
        return "state"
    if is_vector:
        return "bias" if leaf.endswith("bias") else "scalar"
    if len(shape) == 2 and (mixes or any(map(_ATTENTION.fullmatch, words))):
        return "attn"
    return None


def role_outside(name: str, shape: Sequence[int], *, is_float: bool) -> str | None:
    """Return the role of a tensor before or after the layers.

    Returns:
        One of ``core.catalogue.ROLES``: ``embed`` for further tables with a row for
        each token or position, and for what brings them to the width of the layers;
        ``head`` for matrices behind the layers; or ``BUFFER``, or None if it is not
        understood.
    """
    *words, leaf = name.split(".")
    if found := _small_outside(words, leaf, shape, is_float=is_float):
        return found
    if not is_float:
        return _counter(shape, is_float=is_float)
    listed = len(words) > 1 and words[-1].isdecimal()  # one of a list of matrices
    words = words[:-1] if listed else words
    if any(word.isdecimal() for word in words):
        return None
    own = words[-1] if leaf in ("weight", "bias") and words else leaf
    if sum(length > 1 for length in shape) < 2:
        return "scalar" if words else None
    if leaf == "bias" and _TABLE.fullmatch(own) is None:
        return None
    leads_in = leaf == "weight" and _leads_in(words, shape)
    if _BEHIND.search(name) and not leads_in:
        return "head"
    return "embed" if leads_in or _TABLE.fullmatch(own) else None


def _small_outside(
    words: Sequence[str], leaf: str, shape: Sequence[int], *, is_float: bool
) -> str | None:
    """Return the role of norms and biases around the layers; None of all else."""
    if words and words[-1].endswith("_attention_bias"):
        return "bias"
    if leaf.endswith("_bias") and is_float and (not words or len(shape) > 1):
        return "bias" if sum(n > 1 for n in shape) < 3 else None
    if len(shape) == 1 and words:
        if leaf == "bias":
            return "bias"
        if leaf == "weight" and _NORM.fullmatch(words[-1].lower()):
            return "norm"
    return None


def _leads_in(words: Sequence[str], shape: Sequence[int]) -> bool:
    """Tell whether weights bring what a model reads to the width of its layers."""
    if len(shape) < 3:
        return "embeddings" in words
    return any("embed" in word or _CONVOLUTION.fullmatch(word) for word in words)


def _counter(shape: Sequence[int], *, is_float: bool) -> str | None:
    """Return the role of what is no weight by its name: a few whole numbers are kept.

    A matrix of them is a packed weight, which nothing here can merge.
    """
    return BUFFER if not is_float and len(shape) < 2 else None


def _small(words: list[str], leaf: str, shape: Sequence[int]) -> str | None:
    if len(shape) > 2 or _STATE.fullmatch(leaf):
        return None
    if leaf == "bias" or leaf.endswith("_bias") or leaf == "sinks":
        return "bias"
    if leaf == "weight" or _NORM.fullmatch(leaf):
        return "norm"
    return None


def _matrix(
    words: list[str], leaf: str, shape: Sequence[int], sizes: Sizes
) -> str | None:
    if words[-1].endswith("_attention_bias"):
        return "bias"
    if leaf.endswith("_bias"):
        mixes = any(map(_ATTENTION.fullmatch, words))
        return "bias" if mixes or shape[0] == sizes.experts else None
    if any(map(_COEFFICIENTS.fullmatch, words)):
        return "scalar"
    if any(map(_ROUTER.fullmatch, words)):
        return "router" if _routes(words, shape, sizes) else None
    if any(map(_SHARED.fullmatch, words)):
        return "expert"
    if "experts" in words:
        after = words[words.index("experts") + 1 :]
        if in_one(after, shape, sizes):
            return "expert"
        return "expert" if after and _ONE_OF_ALL.fullmatch(after[0]) else None
    if any(map(_ATTENTION.fullmatch, words)):
        return "attn"
    # As BERT has it, and its kin with a second stream of layout (LiLT).
    is_output = words[0] in ("output", "layout_output")
    is_output = is_output and words[-1].startswith("dense")
    if is_output or any(map(_FEED_FORWARD.fullmatch, words)):
        return "mlp"
    return "norm" if any(map(_NORM.fullmatch, words)) else None


def in_one(after: Sequence[str], shape: Sequence[int], sizes: Sizes) -> bool:
    """Tell whether a matrix holds those of all experts, one below the other (DBRX).

    Args:
        after: The words of its name behind ``experts``.
        shape: As stored.
        sizes: Of the model.
    """
    is_named = tuple(after) in (("mlp", "w1"), ("mlp", "v1"), ("mlp", "w2"))
    return bool(is_named and sizes.experts and shape[0] % sizes.experts == 0)


def _routes(words: list[str], shape: Sequence[int], sizes: Sizes) -> bool:
    """Tell whether a matrix sends tokens to experts, or is a gate of all of them.

    Some routers have rows for experts that do nothing, or are shared, or are several
    matrices one after another.
    """
    if shape[0] in (1, sizes.experts):
        return True
    if sizes.experts is None or shape[0] < sizes.experts:
        return False
    is_named = any("router" in word for word in words) or not _ROUTER.fullmatch(
        words[-1]
    )
    return is_named or shape[0] <= 2 * sizes.experts
