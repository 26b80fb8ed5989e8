"""What names of tensors say: which of them are layers, and what each tensor is for.

The layers are the one pattern of names that repeats once for each; what a tensor is for
is told from the words of its name, its shape and its kind.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.checkpoints.configs.families import Sizes
from evomerge.checkpoints.header import TensorInfo
from evomerge.errors import CheckpointError

_PREDICTS = re.compile(r"(^|[._])(mtp|nextn)")
_PREDICTING = re.compile(r"(eh_proj|enorm|hnorm|shared_head|embed_tokens)\.")
_SAVE_WITHOUT = (
    "They are not supported yet: load the model with transformers' "
    "AutoModelForCausalLM, which leaves them out, and save it again."
)
_NUMBERED = re.compile(r"((?:[^.]+\.)*?)(0|[1-9][0-9]{0,5})\.(.+)")

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


@dataclass(frozen=True, slots=True)
class Stack:
    """The layers of a model.

    Attributes:
        prefix: What stands before a layer's number, with the dot.
        layers: Layer to name within the layer to tensor.
        outside: Names of the tensors of no layer.
    """

    prefix: str
    layers: Mapping[int, Mapping[str, TensorInfo]]
    outside: tuple[str, ...]


def find_stack(tensors: Mapping[str, TensorInfo], n_layers: int) -> Stack:
    """Find the names that repeat for the layers 0 to ``n_layers - 1``.

    Raises:
        CheckpointError: There is no such pattern, more than one, or layers are missing.
    """
    stacks: dict[str, dict[int, dict[str, TensorInfo]]] = {}
    outside: list[str] = []
    for name, info in tensors.items():
        if match := _NUMBERED.fullmatch(name):
            layers = stacks.setdefault(match[1], {})
            layers.setdefault(int(match[2]), {})[match[3]] = info
        else:
            outside.append(name)
    if not stacks:
        raise CheckpointError(
            "no tensor belongs to a layer: expected names such as "
            f"'model.layers.0.mlp.up_proj.weight', got {_some(tensors)}."
        )
    # A configuration may speak of a thousand million layers: what is stored is counted.
    fitting = [p for p, found in stacks.items() if len(found) == n_layers > max(found)]
    predicting = [p for p in stacks if _PREDICTS.search(p)]
    if predicting and len(stacks) - len(predicting) < 2:
        name = predicting[0]
        raise CheckpointError(
            f"{name}N ({len(stacks[name])}) are layers that predict further tokens, "
            f"beside the stack of decoder layers. {_SAVE_WITHOUT}"
        )
    if len(stacks) > 1:
        raise CheckpointError(
            "the tensors form several stacks, "
            f"{', '.join(f'{p}N ({len(stacks[p])})' for p in sorted(stacks))}, where "
            "one stack of decoder layers was expected. Encoder-decoders, models that "
            "see or hear, and layers that predict further tokens are not supported; "
            "save the text decoder alone."
        )
    (prefix,) = stacks
    if not fitting:
        found = stacks[prefix]
        odd = [
            layer
            for layer in range(min(n_layers, len(found) + 8))
            if layer not in found
        ]
        further = sorted(layer for layer in found if layer >= n_layers)
        names = [name for layer in further for name in found[layer]]
        if not odd and any(map(_PREDICTING.match, names)):
            raise CheckpointError(_further_layers(further, n_layers))
        odd += further
        raise CheckpointError(
            f"config.json speaks of {n_layers} layers (0 to {n_layers - 1}), but "
            f"layers {odd[:8]} are missing or too many. The folder is incomplete."
        )
    return Stack(prefix, stacks[prefix], tuple(outside))


def _further_layers(odd: list[int], n_layers: int) -> str:
    return (
        f"config.json speaks of {n_layers} layers (0 to {n_layers - 1}); layers "
        f"{odd[:8]} behind the last predict further tokens. {_SAVE_WITHOUT}"
    )


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


def _some(names: Iterable[str]) -> str:
    return ", ".join(repr(name) for name in sorted(names)[:3])


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
