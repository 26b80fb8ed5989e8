"""Tensor names: each finds its section, layer and role, or is refused by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.checkpoints import BUFFER, Layout, Place, TensorInfo
from evomerge.checkpoints.configs.families import Sizes
from evomerge.checkpoints.configs.stack_counts import StackCounts
from evomerge.checkpoints.header import ElementTypeError
from evomerge.checkpoints.layers.layout import read_layout
from evomerge.core.operators.catalogue import ROLES
from evomerge.errors import CheckpointError

SIZES = Sizes("llama", hidden=32, heads=4, key_value_heads=2, head=8, experts=6)
VOCAB = 64

SUFFIXES: Mapping[str, tuple[str, Sequence[int]]] = {
    "self_attn.q_proj.weight": ("attn", (32, 32)),
    "self_attn.o_proj.weight": ("attn", (32, 32)),
    "self_attn.qkv_proj.weight": ("attn", (64, 32)),
    "attention.query_key_value.weight": ("attn", (96, 32)),
    "self_attn.kv_a_proj_with_mqa.weight": ("attn", (24, 32)),
    "self_attn.q_proj.bias": ("bias", (32,)),
    "self_attn.sinks": ("bias", (4,)),
    "self_attn.q_norm.weight": ("norm", (8,)),
    "self_attn.k_norm.weight": ("norm", (2, 8)),
    "self_attn.rotary_emb.inv_freq": (BUFFER, (4,)),
    "attention.bias": (BUFFER, (1, 1, 16, 16)),
    "attention.masked_bias": (BUFFER, ()),
    "mlp.gate_proj.weight": ("mlp", (48, 32)),
    "mlp.gate_up_proj.weight": ("mlp", (96, 32)),
    "mlp.dense_h_to_4h.weight": ("mlp", (48, 32)),
    "fc1.weight": ("mlp", (48, 32)),
    "mlp.down_proj.bias": ("bias", (32,)),
    "mlp.gate.weight": ("router", (6, 32)),
    "mlp.gate.e_score_correction_bias": ("bias", (6,)),
    "mlp.router.weight": ("router", (6, 32)),
    "mlp.shared_expert_gate.weight": ("router", (1, 32)),
    "mlp.experts.5.up_proj.weight": ("expert", (48, 32)),
    "mlp.experts.gate_up_proj": ("expert", (6, 96, 32)),
    "mlp.experts.gate_up_proj_bias": ("bias", (6, 96)),
    "mlp.shared_expert.up_proj.weight": ("expert", (48, 32)),
    "mlp.shared_experts.up_proj.weight": ("expert", (48, 32)),
    "block_sparse_moe.gate.weight": ("router", (6, 32)),
    "block_sparse_moe.router.layer.weight": ("router", (6, 32)),
    "block_sparse_moe.experts.0.w1.weight": ("expert", (48, 32)),
    "block_sparse_moe.input_linear.weight": ("expert", (6, 96, 32)),
    "input_layernorm.weight": ("norm", (32,)),
    "input_layernorm.bias": ("bias", (32,)),
    "post_attention_layernorm.weight": ("norm", (32,)),
    "pre_feedforward_layernorm.weight": ("norm", (32,)),
    "self_attn_layer_norm.weight": ("norm", (32,)),
    "ln_1.weight": ("norm", (32,)),
    "mamba.in_proj.weight": ("attn", (64, 32)),
    "mamba.dt_bias": ("state", (8,)),
    "mixer.A_log": ("state", (48, 16)),
    "mixer.D": ("state", (48,)),
    "mixer.conv1d.weight": ("state", (48, 1, 4)),
    "mixer.conv1d.bias": ("bias", (48,)),
    "linear_attn.A_log": ("state", (4,)),
    "linear_attn.in_proj_qkvz.weight": ("attn", (96, 32)),
    "linear_attn.norm.weight": ("norm", (8,)),
    "conv.conv.weight": ("state", (32, 1, 3)),
    "self_attn.diagonal_decay": ("state", (1, 4, 8, 8)),
    "attention.time_decay": ("state", (32,)),
    "self_attn.q_a_proj.weight": ("attn", (16, 32)),
    "layer_scalar": ("scalar", (1,)),
    "mlp.act_fn.alpha_p": ("scalar", (1,)),
    "self_attn.lambda_q1": ("scalar", (8,)),
    "per_layer_input_gate.weight": ("mlp", (8, 32)),
    "altup.prediction_coefs.weight": ("scalar", (4, 2)),
    "mlp.moe_statics.e_score_correction_bias": ("bias", (1, 6)),
    "mlp.router.classifier.weight": ("router", (8, 32)),
    "attention.wqkv.weight": ("attn", (64, 32)),
    "norm_attn_norm.attn.Wqkv.weight": ("attn", (64, 32)),
    "input_layernorm.W_down.weight": ("norm", (16, 32)),
    "ffn.experts.mlp.w1": ("expert", (288, 32)),
    "intermediate.dense.weight": ("mlp", (48, 32)),
    "output.dense.weight": ("mlp", (32, 48)),
}

LAYERS = ("model.layers.", "transformer.h.", "gpt_neox.layers.", "layers.")
AROUND: dict[str, Sequence[int]] = {
    "model.embed_tokens.weight": (VOCAB, 32),
    "model.norm.weight": (32,),
    "lm_head.weight": (VOCAB, 32),
}


def infos(
    shapes: dict[str, Sequence[int]], dtype: str = "F32"
) -> dict[str, TensorInfo]:
    file = Path("model.safetensors")
    return {n: TensorInfo(n, dtype, tuple(s), file, 0, 0) for n, s in shapes.items()}


def places(
    shapes: dict[str, Sequence[int]], n_layers: int = 1, sizes: Sizes = SIZES
) -> tuple[Layout, dict[str, Place]]:
    return read_layout(infos(shapes), StackCounts(n_layers), VOCAB, sizes)


@pytest.mark.parametrize("suffix", SUFFIXES)
@given(n_layers=st.integers(1, 30), prefix=st.sampled_from(LAYERS))
def test_layer_tensors_know_their_layer_and_role(
    suffix: str, n_layers: int, prefix: str
) -> None:
    role, shape = SUFFIXES[suffix]
    names = [f"{prefix}{layer}.{suffix}" for layer in range(n_layers)]
    layout, found = places(dict.fromkeys(names, shape) | AROUND, n_layers)
    for layer, name in enumerate(names):
        place = found[name]
        assert (place.section, place.layer, place.role) == ("layer", layer, role)
        assert layout.full_name(layer, place.suffix) == name
    assert role == BUFFER or role in ROLES


LAYER: dict[str, Sequence[int]] = {"model.layers.0.mlp.up_proj.weight": (48, 32)}


@pytest.mark.parametrize(
    ("embed", "norm", "head"),
    [
        ("model.embed_tokens.weight", "model.norm.weight", "lm_head.weight"),
        ("gpt_neox.embed_in.weight", "gpt_neox.final_layer_norm.weight", None),
        ("transformer.wte.weight", "transformer.ln_f.weight", "lm_head.weight"),
        ("embed_in.weight", "norm_f.weight", "embed_out.weight"),
        ("tokens.table.weight", "norm.weight", "output.weight"),
        ("transformer.embd.wte.weight", "lm_head.ln.weight", "lm_head.linear.weight"),
        ("wte.weight", "ln_f.weight", "decoder.output_projection.weight"),
    ],
)
def test_embedding_final_norm_and_head_are_told_by_word_and_shape(
    embed: str, norm: str, head: str | None
) -> None:
    shapes = {embed: (VOCAB + 3, 32), norm: (32,)} | LAYER
    shapes |= {head: (VOCAB + 3, 32)} if head else {}
    layout, found = places(shapes)
    assert (layout.embed, layout.head) == (embed, head or "lm_head.weight")
    assert found[embed] == Place("embed", None, "embed", embed)
    assert found[norm] == Place("head", None, "norm", norm)
    assert found[layout.head] == Place("head", None, "head", layout.head)


def test_positions_and_the_norm_after_the_embedding_belong_to_it() -> None:
    extra = {
        "transformer.wpe.weight": (512, 32),
        "transformer.word_embeddings_layernorm.weight": (32,),
        "transformer.word_embeddings_layernorm.bias": (32,),
        "lm_head.bias": (VOCAB,),
        "rotary_emb.inv_freq": (4,),
    }
    _, found = places(AROUND | LAYER | extra)
    assert [(found[n].section, found[n].role) for n in extra] == [
        ("embed", "embed"),
        ("embed", "norm"),
        ("embed", "bias"),
        ("head", "bias"),
        ("head", BUFFER),
    ]


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.layers.0.strange.weight", (64, 32)),
        ("model.layers.0.rel_attn.k", (32, 4, 6)),
        ("model.layers.0.self_attn.q_proj.lora_A.weight", (4, 32)),
        ("model.layers.0.mlp.gate.weight", (5, 32)),
        ("model.layers.0.mlp.experts.w1", (288, 32)),
        ("model.layers.0.mlp.experts.gate_up_proj", (5, 96, 32)),
        ("model.strange.weight", (64, 32)),
        ("model.blocks_of.00.mlp.up_proj.weight", (48, 32)),
    ],
)
def test_what_is_not_understood_is_named_with_its_shape(
    name: str, shape: Sequence[int]
) -> None:
    with pytest.raises(CheckpointError, match="was not understood") as caught:
        places(AROUND | LAYER | {name: shape})
    assert repr(name) in str(caught.value)
    assert str(list(shape)) in str(caught.value)


def test_a_matrix_of_whole_numbers_is_no_buffer() -> None:
    packed = infos({"model.layers.0.mlp.up_proj.weight": (48, 32)}, "I8")
    with pytest.raises(CheckpointError, match="element type 'I8' cannot be merged"):
        read_layout(infos(AROUND) | packed, StackCounts(1), VOCAB, SIZES)


@pytest.mark.parametrize(
    ("extra", "n_layers", "says"),
    [
        ({}, 2, r"layers \[1\] are missing or too many"),
        ({"model.layers.2.mlp.up_proj.weight": (48, 32)}, 2, r"\[1, 2\]"),
        ({"model.layers.00.mlp.up_proj.weight": (48, 32)}, 1, "not understood"),
        ({"encoder.layers.0.mlp.up_proj.weight": (48, 32)}, 1, "several stacks"),
        ({"other.wte.weight": (VOCAB, 32)}, 1, "one matrix of at least 64 rows"),
        ({"other.embed_out.weight": (VOCAB, 32)}, 1, "at most one for the output"),
    ],
)
def test_layers_and_ends_that_are_unclear_are_refused(
    extra: dict[str, Sequence[int]], n_layers: int, says: str
) -> None:
    with pytest.raises(CheckpointError, match=says):
        places(AROUND | LAYER | extra, n_layers)


@pytest.mark.parametrize(
    "extra",
    [
        {"model.layers.1.eh_proj.weight": (32, 64)},
        {"model.layers.1.shared_head.norm.weight": (32,)},
        {"model.mtp_layers.0.mlp.up_proj.weight": (48, 32)},
        {"mtp.layers.0.mlp.up_proj.weight": (48, 32), "mtp.fc.weight": (32, 64)},
    ],
)
def test_layers_that_predict_further_tokens_stand_beside_the_decoder(
    extra: dict[str, Sequence[int]],
) -> None:
    _, found = places(AROUND | LAYER | extra, 1)
    assert {(found[n].section, found[n].role) for n in extra} == {
        ("beside", "prediction")
    }
    assert found["model.layers.0.mlp.up_proj.weight"].layer == 0


BESIDE = {
    "vision_tower.vision_model.encoder.layers.0.mlp.fc1.weight": "vision",
    "model.visual.blocks.0.attn.qkv.weight": "vision",
    "model.visual.merger.mlp.0.weight": "vision",
    "model.embed_vision.embedding.weight": "vision",
    "model.image_newline": "vision",
    "audio_tower.layers.3.fc1.weight": "audio",
    "multi_modal_projector.linear_1.weight": "projector",
    "model.connector.modality_projection.proj.weight": "projector",
    "mlp1.0.weight": "projector",
    "score.weight": "classifier",
    "v_head.summary.weight": "classifier",
    "mtp.pre_fc_norm_hidden.weight": "prediction",
}


@pytest.mark.parametrize(
    "prefix", ["model.", "model.language_model.", "language_model.model."]
)
@pytest.mark.parametrize("name", BESIDE)
def test_parts_beside_the_decoder_are_told_by_their_words(
    name: str, prefix: str
) -> None:
    decoder = {
        n.replace("model.", prefix, 1): shape for n, shape in (AROUND | LAYER).items()
    }
    layout, found = places(decoder | {name: (3, 32)})
    assert (found[name].section, found[name].role) == ("beside", BESIDE[name])
    assert (layout.layers, layout.root) == (f"{prefix}layers.", prefix)
    assert layout.embed == f"{prefix}embed_tokens.weight"
    others = {n: p for n, p in found.items() if n != name}
    assert not any(place.section == "beside" for place in others.values())


def test_names_outside_the_layers_are_found_in_a_model_of_other_prefixes() -> None:
    plain, _ = places(AROUND | LAYER)
    within = {
        "language_model.model.embed_tokens.weight": (VOCAB, 32),
        "language_model.model.norm.weight": (32,),
        "language_model.lm_head.weight": (VOCAB, 32),
        "language_model.model.layers.0.mlp.up_proj.weight": (48, 32),
    }
    wrapped, _ = places(within)
    pairs = {n: plain.name_in(wrapped, n) for n in AROUND}
    assert pairs == {
        "model.embed_tokens.weight": "language_model.model.embed_tokens.weight",
        "model.norm.weight": "language_model.model.norm.weight",
        "lm_head.weight": "language_model.lm_head.weight",
    }
    assert {wrapped.name_in(plain, other): other for other in pairs.values()} == pairs


def test_a_classifier_has_no_output_head() -> None:
    decoder = {n: shape for n, shape in AROUND.items() if n != "lm_head.weight"}
    assert places(decoder | LAYER | {"score.weight": (3, 32)})[0].is_headless
    assert not places(decoder | LAYER)[0].is_headless


def test_a_model_without_layers_or_embedding_is_refused() -> None:
    with pytest.raises(CheckpointError, match="no tensor belongs to a layer"):
        places(AROUND)
    with pytest.raises(CheckpointError, match="for the token embedding"):
        places(LAYER | {"model.norm.weight": (32,)})
    small = AROUND | {"model.embed_tokens.weight": (VOCAB - 1, 32)}
    with pytest.raises(CheckpointError, match="has 63 rows"):
        places(LAYER | small)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("model.embed_tokens.weight", (VOCAB, 32)),
        ("lm_head.weight", (VOCAB, 32)),
        ("lm_head.bias", (VOCAB,)),
        ("model.norm.weight", (32,)),
        ("model.layers.0.input_layernorm.weight", (32,)),
        ("model.layers.0.self_attn.q_proj.bias", (32,)),
        ("model.layers.0.mlp.up_proj.weight", (48, 32)),
    ],
)
@pytest.mark.parametrize("dtype", ["I64", "I32", "BOOL", "U8"])
def test_a_weight_of_whole_numbers_is_named_with_its_type(
    name: str, shape: Sequence[int], dtype: str
) -> None:
    whole = infos({name: shape}, dtype)
    with pytest.raises(ElementTypeError, match=f"'{name}': element type '{dtype}'"):
        read_layout(infos(AROUND | LAYER) | whole, StackCounts(1), VOCAB, SIZES)


@pytest.mark.parametrize(
    "name",
    [
        *("model.position_ids", "model.layers.0.self_attn.step", "steps"),
        *("model.layers.0.attn.bias", "model.layers.0.self_attn.rotary_emb.inv_freq"),
    ],
)
def test_whole_numbers_that_are_no_weights_are_copied(name: str) -> None:
    shape = (1, 1, 8, 8) if name.endswith("bias") else (8,)
    counters = infos({name: shape}, "I64")
    _, found = read_layout(
        infos(AROUND | LAYER) | counters, StackCounts(1), VOCAB, SIZES
    )
    assert found[name].role == BUFFER
