"""Tensor names: understood, moved between layers, or refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.checkpoints import BUFFER, Place, locate, with_layer
from evomerge.core.catalogue import ROLES
from evomerge.errors import CheckpointError

SUFFIXES = {
    "self_attn.q_proj.weight": "attn",
    "self_attn.k_proj.weight": "attn",
    "self_attn.v_proj.weight": "attn",
    "self_attn.o_proj.weight": "attn",
    "self_attn.qkv_proj.weight": "attn",
    "self_attn.q_proj.bias": "bias",
    "self_attn.q_norm.weight": "norm",
    "self_attn.k_norm.weight": "norm",
    "self_attn.rotary_emb.inv_freq": BUFFER,
    "mlp.gate_proj.weight": "mlp",
    "mlp.up_proj.weight": "mlp",
    "mlp.down_proj.weight": "mlp",
    "mlp.gate_up_proj.weight": "mlp",
    "mlp.down_proj.bias": "bias",
    "mlp.gate.weight": "router",
    "mlp.shared_expert_gate.weight": "router",
    "mlp.experts.17.up_proj.weight": "expert",
    "mlp.experts.gate_up_proj": "expert",
    "mlp.shared_expert.up_proj.weight": "expert",
    "block_sparse_moe.gate.weight": "router",
    "block_sparse_moe.experts.0.w1.weight": "expert",
    "input_layernorm.weight": "norm",
    "post_attention_layernorm.weight": "norm",
    "pre_feedforward_layernorm.weight": "norm",
    "post_feedforward_layernorm.weight": "norm",
}


@pytest.mark.parametrize(("suffix", "role"), SUFFIXES.items())
@given(layer=st.integers(0, 500))
def test_layer_tensors_know_their_layer_and_role(
    suffix: str, role: str, layer: int
) -> None:
    place = locate(f"model.layers.{layer}.{suffix}")
    assert place == Place("layer", layer, role, suffix)
    assert role == BUFFER or role in ROLES


@pytest.mark.parametrize(
    ("name", "section", "role"),
    [
        ("model.embed_tokens.weight", "embed", "embed"),
        ("model.norm.weight", "head", "norm"),
        ("lm_head.weight", "head", "head"),
        ("lm_head.bias", "head", "bias"),
    ],
)
def test_tensors_outside_the_layers(name: str, section: str, role: str) -> None:
    assert locate(name) == Place(section, None, role, name)  # type: ignore[arg-type]


@given(
    st.sampled_from(list(SUFFIXES)),
    st.integers(0, 999),
    st.integers(0, 999),
)
def test_moving_a_tensor_and_back_gives_its_name(suffix: str, a: int, b: int) -> None:
    name = f"model.layers.{a}.{suffix}"
    moved = with_layer(name, b)
    assert locate(moved).layer == b
    assert locate(moved).role == locate(name).role
    assert with_layer(moved, a) == name


@pytest.mark.parametrize(
    "name",
    [
        "transformer.h.0.attn.c_attn.weight",
        "model.layers.0.mamba.in_proj.weight",
        "model.layers.00.mlp.up_proj.weight",
        "model.layers.-1.mlp.up_proj.weight",
        "model.layers.x.mlp.up_proj.weight",
        "language_model.model.embed_tokens.weight",
        "model.layers.0.self_attn.q_proj.lora_A.weight",
        "",
    ],
)
def test_unknown_names_are_refused_by_name(name: str) -> None:
    with pytest.raises(CheckpointError, match="was not understood") as caught:
        locate(name)
    assert repr(name) in str(caught.value)


def test_only_layer_tensors_move() -> None:
    with pytest.raises(CheckpointError, match="belongs to no layer"):
        with_layer("lm_head.weight", 1)
    with pytest.raises(ValueError, match="negative"):
        with_layer("model.layers.0.mlp.up_proj.weight", -1)
