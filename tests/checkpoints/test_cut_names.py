"""What is merged in pieces, once as one, has another name than it had as one.

Outcomes are recorded by the name of a recipe, which has those of its sources in it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from evomerge.checkpoints import read_model
from evomerge.checkpoints.fingerprint import fingerprint
from evomerge.testing.families import family_config, family_model, save_family

AROUND = {"model.embed_tokens.weight": (96, 32), "model.norm.weight": (32,)}
SIZES = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 96,
    "tie_word_embeddings": True,
}


def folder_of(
    folder: Path, family: str, layer: Mapping[str, Sequence[int]], **changes: Any
) -> Path:
    folder.mkdir()
    shapes = dict(AROUND)
    shapes |= {f"model.layers.{i}.{n}": s for i in range(2) for n, s in layer.items()}
    random = torch.Generator().manual_seed(0)
    tensors = {n: torch.randn(s, generator=random) for n, s in shapes.items()}
    save_file(tensors, folder / "model.safetensors")
    config = SIZES | {"model_type": family, "architectures": ["X"]} | changes
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def files_alone(folder: Path) -> str:
    return fingerprint(folder, ["model.safetensors", "config.json"])


@pytest.mark.parametrize(
    ("family", "layer"),
    [
        ("internlm2", {"attention.wqkv.weight": (64, 32)}),
        ("chatglm", {"self_attention.query_key_value.weight": (64, 32)}),
        ("minimax", {"self_attn.qkv_proj.weight": (96, 32)}),
        (
            "mamba",
            {"mixer.in_proj.weight": (128, 32), "mixer.conv1d.weight": (64, 1, 4)},
        ),
    ],
)
def test_matrices_that_were_one_give_a_model_another_name(
    tmp_path: Path, family: str, layer: Mapping[str, Sequence[int]]
) -> None:
    folder = folder_of(tmp_path / "m", family, layer)
    model = read_model(folder)
    assert any(place.pieces for place in model.places.values())
    assert model.fingerprint != files_alone(folder)
    assert model.fingerprint == read_model(folder).fingerprint


@pytest.mark.parametrize("family", ["llama", "phi3", "gpt2", "gpt_neox", "mixtral"])
def test_models_that_were_always_cut_alike_keep_their_names(
    tmp_path: Path, family: str
) -> None:
    save_family(tmp_path / "m", family_model(family_config(family)))
    assert read_model(tmp_path / "m").fingerprint == files_alone(tmp_path / "m")


def test_where_the_cut_is_decides_the_name_too(tmp_path: Path) -> None:
    layer = {"attention.wqkv.weight": (64, 32)}
    folder = folder_of(tmp_path / "m", "internlm2", layer)
    before = read_model(folder), files_alone(folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    (folder / "config.json").write_text(json.dumps(config))
    after = read_model(folder), files_alone(folder)
    assert before[1] != after[1]
    assert before[0].fingerprint != after[0].fingerprint


def test_heads_that_differ_from_layer_to_layer_are_cut_by_their_list(
    tmp_path: Path,
) -> None:
    layer = {"attn.qkv_proj.weight": (64, 32), "ffn.proj_1.weight": (96, 32)}
    said = {
        "head_dim": 8,
        "num_attention_heads": None,
        "num_key_value_heads": None,
        "num_query_heads": [4, 6],
        "num_kv_heads": [2, 1],
    }
    model = read_model(folder_of(tmp_path / "m", "openelm", layer, **said))
    rows = [
        [
            (piece.start, piece.stop)
            for piece in model.places[f"model.layers.{i}.attn.qkv_proj.weight"].pieces
        ]
        for i in range(2)
    ]
    assert rows == [[(0, 32), (32, 48), (48, 64)], [(0, 48), (48, 56), (56, 64)]]
    assert len(model.places["model.layers.0.ffn.proj_1.weight"].pieces) == 2
    silent = folder_of(
        tmp_path / "s", "openelm", layer, **{k: None for k in said if k != "head_dim"}
    )
    place = read_model(silent).places["model.layers.0.attn.qkv_proj.weight"]
    assert place.pieces == ()  # nothing says how many heads there are
