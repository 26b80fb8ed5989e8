"""Adapters that strangers made: read, fingerprinted, and refused in words."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from support.adapters import (
    CONFIG,
    WEIGHTS,
    WRAPPER,
    adapter_tensors,
    edit_config,
    tiny_adapter,
    write_adapter,
)

from evomerge.checkpoints import read_model
from evomerge.checkpoints.adapted import fold
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.errors import CheckpointError
from evomerge.testing.models import tiny_model

PART = "model.layers.0.self_attn.q_proj.lora_"


@pytest.fixture
def base(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "base", n_layers=1)


@pytest.fixture
def adapter(tmp_path: Path, base: Path) -> Path:
    return tiny_adapter(tmp_path / "adapter", base)


def test_the_fingerprint_is_of_the_content_alone(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    again = tiny_adapter(tmp_path / "again", base)
    (again / "README.md").write_text("a card")
    first = read_adapter(adapter).fingerprint
    assert read_adapter(again).fingerprint == first
    edit_config(again, lora_alpha=9)
    assert read_adapter(again).fingerprint != first
    other = tiny_adapter(tmp_path / "other", base, seed=1)
    assert read_adapter(other).fingerprint != first


def test_names_with_and_without_pefts_wrappers_find_their_tensor(
    tmp_path: Path, base: Path, adapter: Path
) -> None:
    model, tensors = read_model(base), adapter_tensors(adapter)
    expected = set(fold(read_adapter(adapter), model).factors)
    forms = {
        "bare": {n.removeprefix(WRAPPER): t for n, t in tensors.items()},
        "decoder": {n.replace("model.layers", "layers"): t for n, t in tensors.items()},
        "default": {
            n.replace(".weight", ".default.weight"): t for n, t in tensors.items()
        },
    }
    for name, written in forms.items():
        found = read_adapter(write_adapter(tmp_path / name, written, {}))
        assert set(fold(found, model).factors) == expected


@pytest.mark.parametrize(
    ("config", "said"),
    [
        ({"use_dora": True}, "DoRA"),
        ({"peft_type": "LOHA"}, "only LORA can be folded"),
        ({"peft_type": None}, "only LORA can be folded"),
        ({"r": 0}, "r should be a whole number from 1 up, got 0"),
        ({"r": "4"}, "got '4'"),
        ({"rank_pattern": {"q_proj": 0}}, r"rank_pattern\.q_proj should be"),
        ({"rank_pattern": ["q_proj"]}, "should map names of modules"),
        ({"lora_alpha": "big"}, "lora_alpha should be a number"),
        ({"lora_alpha": float("inf")}, "Infinity is no number"),
        ({"alpha_pattern": {"((a+)+)+": 1}}, "without repeated groups"),
        ({"alpha_pattern": {"(": 1}}, "without repeated groups"),
        ({"alpha_pattern": {".*.*.*.*.*x": 1}}, "without repeated groups"),
        ({"init_lora_weights": "pissa_niter_16"}, "also changed the base"),
        ({"layer_replication": [[0, 1], [0, 1]]}, "repeated layers"),
        ({"target_parameters": ["mlp.experts.down_proj"]}, "fused parameters"),
        ({"trainable_token_indices": [1, 2]}, "single trained tokens"),
        ({"rank_pattern": {"q_proj": 8}}, "with the rank 8"),
    ],
)
def test_what_is_no_plain_lora_is_refused_by_name(
    adapter: Path, config: dict[str, Any], said: str
) -> None:
    edit_config(adapter, **config)
    with pytest.raises(CheckpointError, match=said):
        read_adapter(adapter)


def test_a_pickle_is_refused_with_the_reason(adapter: Path) -> None:
    (adapter / WEIGHTS).rename(adapter / "adapter_model.bin")
    with pytest.raises(CheckpointError, match="pickle can run any code"):
        read_adapter(adapter)


def test_an_incomplete_folder_is_told(tmp_path: Path, adapter: Path) -> None:
    with pytest.raises(CheckpointError, match="does not exist"):
        read_adapter(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match="is a file"):
        read_adapter(adapter / CONFIG)
    (adapter / WEIGHTS).unlink()
    with pytest.raises(CheckpointError, match="Download the adapter completely"):
        read_adapter(adapter)
    (adapter / CONFIG).unlink()
    with pytest.raises(CheckpointError, match="is no adapter"):
        read_adapter(adapter)


def test_a_truncated_file_is_told(adapter: Path) -> None:
    data = (adapter / WEIGHTS).read_bytes()
    (adapter / WEIGHTS).write_bytes(data[:-7])
    with pytest.raises(CheckpointError, match="is truncated"):
        read_adapter(adapter)


def test_tensors_that_belong_to_no_lora_are_told(tmp_path: Path, adapter: Path) -> None:
    tensors = adapter_tensors(adapter)
    lone = {n: t for n, t in tensors.items() if n != f"{WRAPPER}{PART}A.weight"}
    odd = {**tensors, f"{WRAPPER}{PART}magnitude_vector": torch.ones(3)}
    whole = {**tensors, f"{WRAPPER}{PART}A.weight": torch.ones(4, 32).int()}
    for written, said in (
        (lone, "without its counterpart"),
        (odd, "no part of a plain LoRA"),
        (whole, "expected floating point"),
        ({}, "holds no tensor"),
    ):
        save_file(written, adapter / WEIGHTS)
        with pytest.raises(CheckpointError, match=said):
            read_adapter(adapter)


def test_an_adapter_for_another_base_is_named_by_part_and_tensor(
    tmp_path: Path, base: Path
) -> None:
    model = read_model(base)
    deeper = tiny_model(tmp_path / "deeper", n_layers=2)
    wider = tiny_model(tmp_path / "wider", n_layers=1, hidden=64)
    missing = read_adapter(tiny_adapter(tmp_path / "missing", deeper))
    with pytest.raises(CheckpointError) as caught:
        fold(missing, model)
    said = str(caught.value)
    assert "for another base" in said
    assert "model.layers.1" in said
    assert "org/tiny-base" in said
    misfit = read_adapter(tiny_adapter(tmp_path / "misfit", wider))
    with pytest.raises(CheckpointError, match=r"shape \[64, 64\], but .* \[32, 32\]"):
        fold(misfit, model)


def test_an_embedding_with_added_tokens_is_told(tmp_path: Path, base: Path) -> None:
    saved = {f"{WRAPPER}model.embed_tokens.weight": torch.ones(300, 32)}
    grown = read_adapter(write_adapter(tmp_path / "grown", saved, {}))
    with pytest.raises(CheckpointError, match="tokens were added in training"):
        fold(grown, read_model(base))


@pytest.mark.parametrize(("rank", "out", "width"), [(33, 32, 32), (64, 8, 32)])
def test_a_rank_beyond_both_sides_of_its_tensor_is_refused(
    tmp_path: Path, rank: int, out: int, width: int
) -> None:
    name = "base_model.model.model.layers.0.self_attn.q_proj"
    factors = {
        f"{name}.lora_A.weight": torch.ones(rank, width),
        f"{name}.lora_B.weight": torch.ones(out, rank),
    }
    folder = write_adapter(tmp_path / "a", factors, {"r": rank})
    with pytest.raises(CheckpointError, match=f"has rank {rank}, more than either"):
        read_adapter(folder)
