"""What a tensor is for, told from its name.

Names follow transformers' decoder models (Llama, Mistral, Qwen2, Qwen3, Gemma and
their kin): ``model.embed_tokens``, ``model.layers.N``, ``model.norm``, ``lm_head``.
"""

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

from evomerge.errors import CheckpointError

Section = Literal["embed", "layer", "head"]

BUFFER = "buffer"
"""Role of tensors that no operator may touch: copied from the frame."""

EMBED_WEIGHT = "model.embed_tokens.weight"
HEAD_WEIGHT = "lm_head.weight"

_LAYER = re.compile(r"(model\.layers\.)(0|[1-9][0-9]{0,5})\.(.+)")
_FIXED: dict[str, tuple[Section, str]] = {
    EMBED_WEIGHT: ("embed", "embed"),
    "model.norm.weight": ("head", "norm"),
    "model.norm.bias": ("head", "bias"),
    HEAD_WEIGHT: ("head", "head"),
    "lm_head.bias": ("head", "bias"),
}
_ROLES = tuple(
    (role, re.compile(pattern))
    for role, pattern in (
        (BUFFER, r".*rotary_emb\.inv_freq"),
        ("bias", r"(self_attn|mlp)\.\w+\.bias|\w*norm\.bias"),
        ("norm", r"\w*norm\.weight|self_attn\.\w*norm\.weight"),
        ("attn", r"self_attn\.(q|k|v|o|qkv)_proj\.weight"),
        ("mlp", r"mlp\.(gate|up|down|gate_up)_proj\.weight"),
        ("router", r"(mlp|block_sparse_moe)\.(gate|shared_expert_gate)\.weight"),
        (
            "expert",
            r"(mlp|block_sparse_moe)\.(experts\.\d+|shared_experts?)\.\w+\.weight"
            r"|mlp\.experts\.(gate_up|down)_proj",
        ),
    )
)


@dataclass(frozen=True, slots=True)
class Place:
    """Where in a model a tensor belongs.

    Attributes:
        section: ``embed``, ``layer`` or ``head`` (final norm and output head).
        layer: Index of its layer; None outside the layers.
        role: One of ``core.catalogue.ROLES``, or ``BUFFER``.
        suffix: Its name within the layer; the whole name outside the layers.
    """

    section: Section
    layer: int | None
    role: str
    suffix: str


@lru_cache(maxsize=65536)
def locate(name: str) -> Place:
    """Tell where a tensor belongs.

    Raises:
        CheckpointError: The name follows no known layout.
    """
    if fixed := _FIXED.get(name):
        return Place(fixed[0], None, fixed[1], name)
    if match := _LAYER.fullmatch(name):
        suffix = match[3]
        for role, pattern in _ROLES:
            if pattern.fullmatch(suffix):
                return Place("layer", int(match[2]), role, suffix)
    raise CheckpointError(
        f"Tensor {name!r} was not understood: expected the names of a Llama, Mistral, "
        "Qwen2, Qwen3 or Gemma decoder (model.embed_tokens, model.layers.N.self_attn, "
        "model.layers.N.mlp, model.norm, lm_head). Other architectures are not "
        "supported."
    )


def with_layer(name: str, new_index: int) -> str:
    """Return the name the same tensor has in another layer.

    Raises:
        CheckpointError: The tensor belongs to no layer.
        ValueError: The index is negative.
    """
    if new_index < 0:
        raise ValueError(f"A layer index cannot be negative: {new_index}.")
    match = _LAYER.fullmatch(name)
    if match is None:
        raise CheckpointError(f"Tensor {name!r} belongs to no layer.")
    return f"{match[1]}{new_index}.{match[3]}"
