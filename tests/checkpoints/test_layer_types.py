"""Kinds of layers: read from lists and patterns, written for stacks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.checkpoints import LayerType, restacked
from evomerge.checkpoints.configs.layer_types import read_layer_types
from evomerge.errors import CheckpointError

FULL, SLIDING = "full_attention", "sliding_attention"


def attentions(config: dict[str, Any], n: int = 4) -> list[str | None]:
    return [kind.attention for kind in read_layer_types(config, [False] * n)]


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, [None] * 4),
        ({"sliding_window": 4096}, [None] * 4),
        ({"layer_types": [FULL, SLIDING] * 2}, [FULL, SLIDING] * 2),
        ({"model_type": "gemma2"}, [SLIDING, FULL] * 2),
        ({"sliding_window_pattern": 4}, [SLIDING] * 3 + [FULL]),
        ({"_sliding_window_pattern": 3}, [SLIDING, SLIDING, FULL, SLIDING]),
        (
            {"use_sliding_window": True, "max_window_layers": 1},
            [FULL] + [SLIDING] * 3,
        ),
        ({"use_sliding_window": False, "max_window_layers": 1}, [None] * 4),
    ],
)
def test_attention_is_read_from_lists_and_patterns(
    config: dict[str, Any], expected: list[str | None]
) -> None:
    assert attentions(config) == expected


def test_rotary_positions_and_mixtures_are_part_of_the_type() -> None:
    by_interval = read_layer_types({"no_rope_layer_interval": 2}, [True, False])
    by_list = read_layer_types({"no_rope_layers": [1, 0]}, [True, False])
    assert by_interval == by_list
    assert by_list == (LayerType(None, True, True), LayerType(None, False, False))
    assert str(by_list[1]) == ("attention, no rotary positions, one feed-forward block")


def test_only_what_is_known_and_differs_keeps_layers_apart() -> None:
    assert LayerType(None).fits(LayerType(FULL))
    assert LayerType(FULL).fits(LayerType(FULL))
    assert not LayerType(FULL).fits(LayerType(SLIDING))
    assert not LayerType().fits(LayerType(rotary=False))
    assert not LayerType().fits(LayerType(mixture=True))


@pytest.mark.parametrize("key", ["layer_types", "no_rope_layers"])
def test_a_list_of_another_length_is_refused(key: str) -> None:
    with pytest.raises(CheckpointError, match=f"{key} has 3 entries.*4 layers"):
        read_layer_types({key: [1, 1, 1]}, [False] * 4)


def stack(config: dict[str, Any], mixtures: list[bool], layers: list[int]) -> Any:
    types = read_layer_types(config, mixtures)
    return restacked(config, [(config, layer, types[layer]) for layer in layers])


@given(
    st.lists(st.sampled_from([FULL, SLIDING]), min_size=1, max_size=6),
    st.data(),
)
def test_a_stack_has_the_types_of_its_layers(types: list[str], data: Any) -> None:
    n = len(types)
    config = {"num_hidden_layers": n, "layer_types": types, "eos_layer": "x"}
    layers = data.draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=8))
    out = stack(config, [False] * n, layers)
    assert out["num_hidden_layers"] == len(layers)
    assert out["layer_types"] == [types[layer] for layer in layers]
    assert attentions(out, len(layers)) == [types[layer] for layer in layers]
    assert config["layer_types"] == types


def test_the_number_of_layers_is_written_under_the_familys_own_key() -> None:
    assert stack({"n_layer": 2}, [False] * 2, [0, 1, 1]) == {"n_layer": 3}


def test_what_a_pattern_said_is_written_as_a_list() -> None:
    config = {"num_hidden_layers": 4, "no_rope_layer_interval": 2}
    out = stack(config, [False] * 4, [1, 2])
    assert out["no_rope_layers"] == [0, 1]


def test_dense_layers_of_a_mixture_are_told_by_their_new_places() -> None:
    config = {"num_hidden_layers": 3, "mlp_only_layers": [], "decoder_sparse_step": 2}
    out = stack(config, [False, True, False], [1, 0, 1, 2])
    assert (out["mlp_only_layers"], out["decoder_sparse_step"]) == ([1, 3], 1)
    config = {"num_hidden_layers": 2, "moe_layers": [1]}
    assert stack(config, [False, True], [1, 0, 1])["moe_layers"] == [0, 2]


@pytest.mark.parametrize("key", ["first_k_dense_replace", "num_dense_layers"])
def test_a_family_with_dense_layers_first_cannot_have_them_elsewhere(key: str) -> None:
    config = {"num_hidden_layers": 3, key: 1}
    mixtures = [False, True, True]
    assert stack(config, mixtures, [0, 0, 1])[key] == 2
    assert stack(config, mixtures, [0, 0])[key] == 2  # a third would be a mixture
    with pytest.raises(CheckpointError, match=r"Layers \[1\].*layers first"):
        stack(config, mixtures, [1, 0, 2])


def test_what_is_said_of_few_layers_by_number_moves_with_them() -> None:
    config = {"num_hidden_layers": 3, "per_layer_config": {"2": {"head_dim": 16}}}
    out = stack(config, [False] * 3, [2, 0, 1, 2])
    assert out["per_layer_config"] == {"0": {"head_dim": 16}, "3": {"head_dim": 16}}


def test_an_embedding_with_a_part_for_each_layer_holds_them_in_their_places() -> None:
    config = {"num_hidden_layers": 2, "hidden_size_per_layer_input": 8}
    assert stack(config, [False] * 2, [0, 1]) == config
    for layers in ([1, 0], [0], [0, 1, 1]):
        with pytest.raises(CheckpointError, match="a part for each layer"):
            stack(config, [False] * 2, layers)


def test_an_input_that_says_nothing_of_its_layers_is_named() -> None:
    frame = {"num_hidden_layers": 1, "layer_types": [FULL]}
    with pytest.raises(CheckpointError, match=r"layer_types.*its layer 1"):
        restacked(frame, [({}, 1, LayerType())])
