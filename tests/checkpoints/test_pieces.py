"""Fused tensors: what they are cut into, and what is refused."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.checkpoints import Piece
from evomerge.checkpoints.configs.families import Sizes, read_sizes
from evomerge.checkpoints.layers.pieces import pieces_of
from evomerge.errors import CheckpointError

SIZES = Sizes("phi3", hidden=32, heads=4, key_value_heads=2, head=8, experts=3)


def test_queries_keys_and_values_follow_the_configured_heads() -> None:
    assert pieces_of("self_attn.qkv_proj.weight", (64, 32), SIZES) == (
        Piece("self_attn.q_proj.weight", start=0, stop=32),
        Piece("self_attn.k_proj.weight", start=32, stop=48),
        Piece("self_attn.v_proj.weight", start=48, stop=64),
    )


def test_gate_and_up_are_halves_and_biases_are_cut_alike() -> None:
    for leaf, shape in (("weight", (96, 32)), ("bias", (96,))):
        assert pieces_of(f"mlp.gate_up_proj.{leaf}", shape, SIZES) == (
            Piece(f"mlp.gate_proj.{leaf}", start=0, stop=48),
            Piece(f"mlp.up_proj.{leaf}", start=48, stop=96),
        )


def test_every_expert_is_cut_by_itself() -> None:
    found = pieces_of("mlp.experts.gate_up_proj", (3, 96, 32), SIZES)
    names = [(piece.expert, piece.name) for piece in found]
    assert names[:3] == [
        (0, "mlp.experts.0.gate_proj.weight"),
        (0, "mlp.experts.0.up_proj.weight"),
        (1, "mlp.experts.1.gate_proj.weight"),
    ]
    linear = pieces_of("block_sparse_moe.output_linear.weight", (3, 32, 48), SIZES)
    assert [piece.name for piece in linear] == [
        f"block_sparse_moe.experts.{e}.down_proj.weight" for e in range(3)
    ]


def test_rows_by_head_are_split_only_where_the_order_is_known() -> None:
    shape = (96, 32)
    name = "attention.query_key_value.weight"
    (first, *_) = pieces_of(name, shape, Sizes("gpt_neox", 32, 4, 4, 8))
    assert first == Piece("attention.q_proj.weight", None, False, 4, 0, 8)
    assert pieces_of(name, shape, Sizes("falcon", 32, 4, 4, 8)) == ()
    assert pieces_of("attn.qkv_proj.weight", shape, Sizes("codegen", 32, 4, 4, 8)) == ()


def test_up_may_stand_before_gate() -> None:
    assert pieces_of("mlp.up_gate_proj.weight", (96, 32), SIZES) == (
        Piece("mlp.up_proj.weight", start=0, stop=48),
        Piece("mlp.gate_proj.weight", start=48, stop=96),
    )


def test_a_gate_may_stand_before_queries_keys_and_values() -> None:
    found = pieces_of(
        "attn.gqkv_proj.weight", (128, 32), Sizes("hrm_text", 32, 4, 4, 8)
    )
    assert [(piece.name.split(".")[1], piece.start, piece.stop) for piece in found] == [
        ("gate_proj", 0, 32),
        ("q_proj", 32, 64),
        ("k_proj", 64, 96),
        ("v_proj", 96, 128),
    ]


def test_what_is_not_fused_is_merged_as_it_is_stored() -> None:
    assert pieces_of("self_attn.q_proj.weight", (32, 32), SIZES) == ()
    (turned,) = pieces_of("attn.c_proj.weight", (32, 32), SIZES, transposed=True)
    assert turned == Piece("attn.c_proj.weight", transposed=True)


@pytest.mark.parametrize("rows", [63, 65, 128])
def test_rows_that_no_heads_make_are_refused(rows: int) -> None:
    with pytest.raises(CheckpointError, match=f"{rows} rows.*4 heads and 2 key-value"):
        pieces_of("self_attn.qkv_proj.weight", (rows, 32), SIZES)


@given(
    heads=st.integers(1, 8),
    pairs=st.integers(1, 8),
    head=st.integers(1, 16),
    transposed=st.booleans(),
)
def test_pieces_cover_every_row_once(
    heads: int, pairs: int, head: int, transposed: bool
) -> None:
    rows = (heads + 2 * pairs) * head
    sizes = Sizes("any", hidden=7, heads=heads, key_value_heads=pairs, head=head)
    shape = (7, rows) if transposed else (rows, 7)
    found = pieces_of("attn.qkv_proj.weight", shape, sizes, transposed=transposed)
    covered = [i for piece in found for i in range(rows)[piece.start : piece.stop]]
    assert covered == list(range(rows))
    assert {piece.transposed for piece in found} == {transposed}


def test_sizes_are_read_under_any_name() -> None:
    llama = {"hidden_size": 32, "num_attention_heads": 4, "num_key_value_heads": None}
    assert read_sizes(llama) == Sizes("", 32, 4, 4, 8)
    gpt2 = {"model_type": "gpt2", "n_embd": 32, "n_head": 4}
    assert read_sizes(gpt2) == Sizes("gpt2", 32, 4, 4, 8)
    moe = {"hidden_size": 30, "num_attention_heads": 4, "num_local_experts": 6}
    assert read_sizes(moe) == Sizes("", 30, 4, 4, None, 6)
    assert read_sizes({"hidden_size": "32", "num_experts": True}) == Sizes()
