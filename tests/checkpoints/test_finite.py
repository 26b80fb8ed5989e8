"""Weights that are no numbers are found before anything is computed with them."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import read_model
from evomerge.checkpoints.finite import non_finite
from evomerge.testing.models import tiny_model

NAME = "model.layers.1.mlp.up_proj.weight"


def spoil(folder: Path, value: float) -> None:
    file = folder / "model.safetensors"
    tensors = load_file(file)
    tensors[NAME].view(-1)[7] = value
    save_file(tensors, file, metadata={"format": "pt"})


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_a_tensor_with_a_value_that_is_no_number_is_named(
    dtype: str, value: float, tmp_path: Path
) -> None:
    tiny_model(tmp_path / "m", dtype=dtype, tied=False, seed=1)
    spoil(tmp_path / "m", value)
    assert non_finite(read_model(tmp_path / "m")) == (NAME,)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16"])
def test_the_largest_finite_values_are_no_fault(dtype: str, tmp_path: Path) -> None:
    tiny_model(tmp_path / "m", dtype=dtype, tied=False, seed=1)
    spoil(tmp_path / "m", torch.finfo(getattr(torch, dtype)).max)
    assert non_finite(read_model(tmp_path / "m")) == ()


def test_the_answer_is_remembered_by_content(tmp_path: Path) -> None:
    tiny_model(tmp_path / "m", tied=False, seed=1)
    spoil(tmp_path / "m", float("nan"))
    model = read_model(tmp_path / "m")
    assert non_finite(model, tmp_path / "cache") == (NAME,)
    (tmp_path / "m" / "model.safetensors").unlink()
    assert non_finite(model, tmp_path / "cache") == (NAME,)


@pytest.mark.parametrize("memo", ["{", "3", '{"a": 1}', "[1]"])
def test_the_answer_is_kept_and_a_broken_memo_made_anew(
    tmp_path: Path, memo: str
) -> None:
    model = read_model(tiny_model(tmp_path / "m", n_layers=1))
    cache = tmp_path / "cache"
    assert non_finite(model, cache) == ()
    (file,) = cache.iterdir()
    file.write_text('["remembered"]')
    assert non_finite(model, cache) == ("remembered",)
    file.write_text(memo)
    assert non_finite(model, cache) == ()
    assert file.read_text() == "[]"


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path) -> None:
    model = read_model(tiny_model(tmp_path / "m", n_layers=1))
    (tmp_path / "file").write_text("in the way")
    assert non_finite(model, tmp_path / "file" / "cache") == ()
