"""Families of mixtures that are assembled from dense models: names and configurations.

Only those whose result computes what the dense model does where all experts are equal:
gates of the chosen experts are normalised, and attention is the dense family's.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.checkpoints.configs.families import family_of, read_sizes
from evomerge.checkpoints.configs.rotary import FULL, read_rotary
from evomerge.checkpoints.model import Model
from evomerge.errors import CheckpointError

BLOCK = ("mlp.gate_proj.weight", "mlp.up_proj.weight", "mlp.down_proj.weight")
"""The feed-forward block of a layer, in every dense family that is understood."""
OUTPUT = BLOCK[2]
"""What writes to the hidden state."""
_BEFORE = "mlp."
_LAYERS = "model.layers."


@dataclass(frozen=True, slots=True)
class MixtureFamily:
    """A family of mixtures.

    Attributes:
        model_type: As configurations name it.
        called: As mergekit-moe names it.
        dense: ``model_type`` of the dense models it is made of.
        block: Where in a layer the experts stand.
        names: Tensor of a dense block to its name within an expert.
        shares: It has one expert that every token is sent to.
    """

    model_type: str
    called: str
    architecture: str
    dense: tuple[str, ...]
    block: str
    names: Mapping[str, str]
    shares: bool = False

    @property
    def router(self) -> str:
        """The router's rows within a layer."""
        return f"{self.block}.gate.weight"

    def expert(self, index: int, name: str) -> str:
        """Return what a tensor of a dense block is called in an expert."""
        return f"{self.block}.experts.{index}.{self.names[name]}"

    def shared(self, name: str) -> str:
        """Return what it is called in the shared expert."""
        return f"{self.block}.shared_expert.{self.names[name]}"

    @property
    def shared_router(self) -> str:
        """The one row that says how much of the shared expert is added."""
        return f"{self.block}.shared_expert_gate.weight"


_SAME = {name: name.removeprefix(_BEFORE) for name in BLOCK}
_LLAMAS = ("llama", "mistral")

_ALL = (
    MixtureFamily(
        "mixtral",
        "Mixtral",
        "MixtralForCausalLM",
        _LLAMAS,
        "block_sparse_moe",
        dict(zip(BLOCK, ("w1.weight", "w3.weight", "w2.weight"), strict=True)),
    ),
    MixtureFamily(
        "qwen2_moe",
        "Qwen MoE",
        "Qwen2MoeForCausalLM",
        ("qwen2", *_LLAMAS),
        "mlp",
        _SAME,
        shares=True,
    ),
    MixtureFamily(
        "qwen3_moe", "Qwen3 MoE", "Qwen3MoeForCausalLM", ("qwen3",), "mlp", _SAME
    ),
)

MIXTURE_FAMILIES: Mapping[str, MixtureFamily] = {one.model_type: one for one in _ALL}
"""``model_type`` to family, the one that is preferred first."""


def misfit(family: MixtureFamily, base: Model, model: Model) -> str | None:
    """Say why a model cannot give an expert beside a base, if it cannot."""
    kind = str(model.config.get("model_type"))
    if kind not in family.dense:
        return (
            f"expected a model of {', '.join(family.dense)} for {family.called}, got "
            f"one of {kind}"
        )
    if model.layout.layers != _LAYERS:
        return f"expected tensors called {_LAYERS}N, got {model.layout.layers}N"
    if model.n_layers != base.n_layers:
        return f"expected {base.n_layers} layers, as the base has, got {model.n_layers}"
    names = {
        place.suffix
        for place in model.places.values()
        if place.layer is not None and place.suffix.startswith(_BEFORE)
    }
    if names != set(BLOCK):
        return (
            f"expected a feed-forward block of {', '.join(BLOCK)} alone, got "
            f"{', '.join(sorted(names)) or 'none'}"
        )
    return _other_shapes(base, model) or _other_activation(base, model)


def _other_shapes(base: Model, model: Model) -> str | None:
    for name in BLOCK:
        wanted, found = (one.tensors.get(f"{_LAYERS}0.{name}") for one in (base, model))
        if wanted is not None and found is not None and wanted.shape != found.shape:
            return (
                f"expected {name} of the base's shape {list(wanted.shape)}, got "
                f"{list(found.shape)}"
            )
    return None


def _other_activation(base: Model, model: Model) -> str | None:
    wanted, found = (
        family_of(one.config).filled(one.config).get("hidden_act")
        for one in (base, model)
    )
    if wanted == found:
        return None
    return f"expected the base's activation function {wanted}, got {found}"


def unlike(family: MixtureFamily, base: Model) -> str | None:
    """Say why a base's attention cannot stand in a family of mixtures, if it cannot."""
    sizes = read_sizes(base.config)
    usual = sizes.hidden // sizes.heads if sizes.hidden and sizes.heads else None
    if family.shares and sizes.head != usual:
        return f"expected heads of {usual}, as {family.called} has, got {sizes.head}"
    config = family_of(base.config).filled(base.config)
    windowed = config.get("use_sliding_window", config.get("sliding_window"))
    if windowed and family.model_type != "mixtral":
        return f"expected no sliding window, which {family.called} has not alike"
    biased = ("q_proj", "k_proj", "v_proj") if _is_biased(family, base) else ()
    for place in base.places.values():
        _, _, within = place.suffix.partition("self_attn.")
        if within.endswith(".bias") and within.partition(".")[0] not in biased:
            return f"expected no {place.suffix}, which {family.called} lacks"
    return None


def _is_biased(family: MixtureFamily, base: Model) -> bool:
    return family.shares and base.config.get("model_type") == "qwen2"


def mixture_config(
    base: Model, family: MixtureFamily, n_experts: int, per_token: int, dtype: str
) -> dict[str, Any]:
    """Return the configuration of a mixture: the base's, with what its experts need.

    Args:
        base: Gives attention and all else.
        family: Of the result.
        n_experts: Without the shared one.
        per_token: Experts that a token is sent to.
        dtype: Element type of the weights.

    Raises:
        CheckpointError: The base does not say how its layers compute.
    """
    known = family_of(base.config)
    config = known.filled(base.config)
    rotary = read_rotary(known.said(base.config), known).get(FULL, {})
    if "rope_parameters" not in base.config and "rope_theta" in rotary:
        config["rope_theta"] = rotary["rope_theta"]
    inner = config.get("intermediate_size")
    if type(inner) is not int:
        raise CheckpointError(
            f"{base.path}: does not say how wide its feed-forward blocks are: expected "
            "intermediate_size."
        )
    config = {k: v for k, v in config.items() if k not in _LEFT_OUT and v is not None}
    config.setdefault("num_key_value_heads", read_sizes(base.config).key_value_heads)
    config |= {
        "model_type": family.model_type,
        "architectures": [family.architecture],
        "dtype": dtype,
        "tie_word_embeddings": base.tied,
        "num_experts_per_tok": per_token,
        "output_router_logits": False,
    }
    if family.model_type == "mixtral":
        config |= {"num_local_experts": n_experts, "router_jitter_noise": 0.0}
        return config | {"sliding_window": config.get("sliding_window")}
    own: dict[str, Any] = {
        "num_experts": n_experts,
        "moe_intermediate_size": inner,
        "decoder_sparse_step": 1,
        "mlp_only_layers": [],
        "norm_topk_prob": True,
    }
    if family.shares:
        own["shared_expert_intermediate_size"] = inner
        own["qkv_bias"] = _is_biased(family, base)
    return config | own | {"use_sliding_window": False}


_LEFT_OUT = (
    *("auto_map", "torch_dtype", "mlp_bias", "pretraining_tp", "attention_bias"),
    *("layer_types", "max_window_layers", "transformers_version"),
)
"""What says nothing of the result, or only what its family takes for granted."""
