"""Parents as tensors: mapped, verified, and equal to what was stored."""

import json
import struct
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import read_model
from evomerge.errors import CheckpointError
from evomerge.merging.sources import Sources
from evomerge.testing.models import tiny_model


def load(folder: Path) -> dict[str, torch.Tensor]:
    """Read the weights; the library alone would map the file that a test rewrites."""
    stored = load_file(folder / "model.safetensors")
    return {name: tensor.clone() for name, tensor in stored.items()}


def open_one(folder: Path) -> tuple[str, Sources]:
    fingerprint = read_model(folder).fingerprint
    return fingerprint, Sources({fingerprint: folder})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_tensors_are_those_the_library_reads(tmp_path: Path, dtype: str) -> None:
    folder = tiny_model(tmp_path / "m", "qwen2", dtype=dtype)
    fingerprint, sources = open_one(folder)
    with sources:
        for name, expected in load(folder).items():
            found = sources.tensor(fingerprint, name)
            assert found.dtype == expected.dtype
            assert torch.equal(found, expected)


def test_nothing_is_copied(tmp_path: Path) -> None:
    fingerprint, sources = open_one(tiny_model(tmp_path / "m"))
    names = list(sources.model(fingerprint).tensors)
    storages = {
        sources.tensor(fingerprint, name).untyped_storage().data_ptr() for name in names
    }
    assert len(storages) == 1


def test_tensors_outlive_the_sources(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    fingerprint, sources = open_one(folder)
    with sources:
        norm = sources.tensor(fingerprint, "model.norm.weight")
    expected = load(folder)["model.norm.weight"]
    assert torch.equal(norm, expected)


def test_tensors_that_are_not_aligned_are_read_all_the_same(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    file = folder / "model.safetensors"
    tensors = load(folder)
    # A bool buffer in front shifts everything behind it by one byte.
    odd = "model.layers.0.self_attn.q_proj.bias"
    header, data = {odd: {"dtype": "BOOL", "shape": [], "data_offsets": [0, 1]}}, b"\1"
    for name, tensor in tensors.items():
        end = len(data) + tensor.nbytes
        header[name] = {
            "dtype": "F32",
            "shape": list(tensor.shape),
            "data_offsets": [len(data), end],
        }
        data += tensor.numpy().tobytes()
    text = json.dumps(header).encode()
    file.write_bytes(struct.pack("<Q", len(text)) + text + data)
    fingerprint, sources = open_one(folder)
    assert sources.tensor(fingerprint, odd).item() is True
    for name, expected in tensors.items():
        assert torch.equal(sources.tensor(fingerprint, name), expected)


def test_a_parent_that_changed_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m")
    fingerprint, sources = open_one(folder)
    tensors = load(folder)
    tensors["model.norm.weight"] += 1
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed since") as caught:
        sources.tensor(fingerprint, "model.norm.weight")
    assert str(folder) in str(caught.value)


def test_a_parent_that_changes_while_it_is_open_is_refused(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    fingerprint, sources = open_one(folder)
    sources.check_unchanged(fingerprint)
    tensors = load(folder)
    (folder / "model.safetensors").unlink()
    save_file(tensors, folder / "model.safetensors")
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        sources.check_unchanged(fingerprint)
    (folder / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="changed while it was in use"):
        sources.check_unchanged(fingerprint)


def test_what_is_not_there_is_named(tmp_path: Path) -> None:
    fingerprint, sources = open_one(tiny_model(tmp_path / "m"))
    with pytest.raises(CheckpointError, match="No folder is known"):
        sources.tensor("f" * 32, "model.norm.weight")
    with pytest.raises(CheckpointError, match="no tensor 'ghost'"):
        sources.tensor(fingerprint, "ghost")
