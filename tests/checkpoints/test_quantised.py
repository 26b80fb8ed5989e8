"""Quantised weights are named as what they are; keys left over are told."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from evomerge.checkpoints import read_model
from evomerge.errors import CheckpointError
from evomerge.testing.models import tiny_model

PROJ = "model.layers.0.mlp.up_proj"


def packed(folder: Path, changes: dict[str, torch.Tensor | None], **said: Any) -> Path:
    tiny_model(folder, n_layers=1)
    tensors = load_file(folder / "model.safetensors") | changes
    kept = {name: tensor for name, tensor in tensors.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors")
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | said))
    return folder


def ints(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.ones(shape, dtype=dtype)


@pytest.mark.parametrize(
    ("changes", "method", "named"),
    [
        (
            {
                f"{PROJ}.weight": None,
                f"{PROJ}.qweight": ints(torch.int32, 4, 32),
                f"{PROJ}.g_idx": ints(torch.int32, 32),
            },
            None,
            "GPTQ",
        ),
        (
            {f"{PROJ}.weight": None, f"{PROJ}.qweight": ints(torch.int32, 32, 4)},
            {"quant_method": "awq", "bits": 4},
            "AWQ",
        ),
        (
            {f"{PROJ}.weight.absmax": torch.ones(4)},
            {"quant_method": "bitsandbytes", "load_in_4bit": True},
            "bitsandbytes",
        ),
        (
            {f"{PROJ}.weight": ints(torch.int8, 32, 32), f"{PROJ}.SCB": torch.ones(32)},
            None,
            "bitsandbytes in 8 bits",
        ),
        (
            {f"{PROJ}.weight": torch.ones(32, 32).to(torch.float8_e4m3fn)},
            {"quant_method": "fp8"},
            "FP8",
        ),
        ({f"{PROJ}.weight_scale_inv": torch.ones(1, 1)}, None, "FP8"),
        (
            {f"{PROJ}.weight": None, f"{PROJ}.weight_packed": ints(torch.int32, 4, 4)},
            {"quant_method": "compressed-tensors"},
            "compressed-tensors",
        ),
        (
            {"model.layers.0.mlp.experts.down_proj_blocks": ints(torch.uint8, 2, 4)},
            None,
            "MXFP4",
        ),
        ({f"{PROJ}.weight_integer": torch.ones(32, 32)}, None, "I-BERT"),
        (
            {f"{PROJ}.weight": ints(torch.uint8, 32, 8)},
            {"quant_method": "bitnet"},
            "bitnet",
        ),
    ],
)
def test_each_form_is_named_with_the_next_step(
    tmp_path: Path, changes: dict[str, Any], method: dict[str, Any] | None, named: str
) -> None:
    said = {} if method is None else {"quantization_config": method}
    folder = packed(tmp_path / "m", changes, **said)
    with pytest.raises(CheckpointError, match="the model it was made from") as caught:
        read_model(folder)
    assert f"quantised: {named}" in str(caught.value) or named in str(caught.value)
    assert "not understood" not in str(caught.value)


@pytest.mark.parametrize(
    "said",
    [
        {"quant_method": "bitsandbytes", "load_in_4bit": True},
        {"quant_method": "gptq", "bits": 4},
        {"format": "float-quantized"},
    ],
)
def test_a_key_left_over_beside_plain_weights_is_told_and_gone(
    tmp_path: Path, said: dict[str, Any]
) -> None:
    model = read_model(packed(tmp_path / "m", {}, quantization_config=said))
    assert "quantization_config" not in model.config
    (remark,) = model.remarks
    assert "config.json has quantization_config" in remark
    assert "the result is without the key" in remark


def test_an_empty_key_is_no_news(tmp_path: Path) -> None:
    model = read_model(packed(tmp_path / "m", {}, quantization_config=None))
    assert model.remarks == ()
    assert "quantization_config" not in model.config


def test_a_folder_of_gguf_files_is_told_what_it_is(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "m", n_layers=1)
    (folder / "model.safetensors").unlink()
    (folder / "model-Q4_K_M.gguf").write_bytes(b"GGUF")
    with pytest.raises(CheckpointError, match=r"Q4_K_M\.gguf', a GGUF file"):
        read_model(folder)
