"""GGUF files become the very model that they were written from."""

from pathlib import Path

import numpy as np
import pytest
import torch
from support.gguf_files import write_gguf
from transformers import AutoModelForCausalLM, AutoTokenizer

from evomerge.checkpoints import read_model
from evomerge.errors import CheckpointError, ExportError
from evomerge.merging.gguf import convert_gguf, gguf_file
from evomerge.specs.sources import missing, open_source

PROMPT = torch.tensor([[1, 5, 9, 20, 3]])


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, torch.nn.Module]:
    file = tmp_path_factory.mktemp("gguf") / "tiny model.gguf"
    return file, write_gguf(file)


@pytest.fixture(scope="module")
def converted(
    written: tuple[Path, torch.nn.Module], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("converted") / "model"
    convert_gguf(written[0], out, dtype=torch.float32)
    return out


@torch.no_grad()
def test_a_converted_model_answers_as_the_one_it_was_written_from(
    written: tuple[Path, torch.nn.Module], converted: Path
) -> None:
    model = AutoModelForCausalLM.from_pretrained(converted)
    expected = written[1](PROMPT).logits
    assert torch.equal(model(PROMPT).logits, expected)
    for name, value in written[1].state_dict().items():
        assert torch.equal(model.state_dict()[name], value), name


def test_its_tokenizer_and_chat_template_come_along(converted: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(converted)
    ids = tokenizer("ab a").input_ids
    assert tokenizer.convert_ids_to_tokens(ids) == ["a", "b", "Ġa"]
    said = [{"role": "user", "content": "ab"}]
    assert tokenizer.apply_chat_template(said, tokenize=False) == "<u>ab"


def test_a_converted_model_can_be_merged_and_is_not_called_quantised(
    converted: Path,
) -> None:
    model = read_model(converted)
    assert model.n_layers == 2
    assert model.tied
    assert "quantization_config" not in model.config
    modes = {path.stat().st_mode for path in converted.iterdir()}
    assert len(modes) == 1


def test_a_folder_with_one_file_is_as_good_as_the_file(
    written: tuple[Path, torch.nn.Module], converted: Path, tmp_path: Path
) -> None:
    convert_gguf(written[0].parent, tmp_path / "out", dtype=torch.float32)
    assert read_model(tmp_path / "out").fingerprint == read_model(converted).fingerprint


def test_a_quantised_file_gives_the_numbers_its_bits_stand_for(tmp_path: Path) -> None:
    model = write_gguf(tmp_path / "q8.gguf", quantised=True)
    convert_gguf(tmp_path / "q8.gguf", tmp_path / "out", dtype=torch.float32)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").state_dict()
    name = "model.layers.0.mlp.down_proj.weight"
    exact = model.state_dict()[name].numpy()
    blocks = exact.reshape(-1, 32)
    scale = (np.abs(blocks).max(1, keepdims=True) / 127).astype(np.float16)
    scale = scale.astype(np.float32)
    told = again[name].numpy().reshape(-1, 32)
    assert not np.array_equal(told, blocks)
    assert np.abs(told - blocks).max() <= scale.max()  # a step, or half of one


@pytest.mark.parametrize("name", ["two", "none", "text.gguf", "gone.gguf"])
def test_what_is_no_single_gguf_file_is_refused_by_name(
    name: str, tmp_path: Path
) -> None:
    (tmp_path / "two").mkdir()
    (tmp_path / "none").mkdir()
    for file in ("two/a.gguf", "two/b.GGUF"):
        (tmp_path / file).write_bytes(b"GGUF")
    (tmp_path / "text.gguf").write_bytes(b"not so")
    with pytest.raises(CheckpointError, match=name):
        gguf_file(tmp_path / name)


def test_a_broken_file_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "cut.gguf").write_bytes(b"GGUF\x03\0\0\0")
    with pytest.raises(CheckpointError, match=r"cut\.gguf: transformers cannot read"):
        convert_gguf(tmp_path / "cut.gguf", tmp_path / "out")
    assert [path.name for path in tmp_path.iterdir()] == ["cut.gguf"]


def test_a_folder_that_is_there_is_not_overwritten(
    written: tuple[Path, torch.nn.Module], tmp_path: Path
) -> None:
    (tmp_path / "out").mkdir()
    with pytest.raises(ExportError, match="exists already"):
        convert_gguf(written[0], tmp_path / "out")


def test_a_gguf_file_as_a_source_is_refused_with_the_way_to_convert_it(
    written: tuple[Path, torch.nn.Module],
) -> None:
    file = written[0]
    with pytest.raises(CheckpointError, match=r"evomerge convert '.*\.gguf' '") as told:
        open_source(str(file), file.parent)
    said = missing(file.name, file.parent)
    assert said is not None
    assert "evomerge convert" in said
    assert str(file) in str(told.value)


def test_a_folder_of_gguf_files_is_refused_in_the_same_way(
    written: tuple[Path, torch.nn.Module],
) -> None:
    folder = written[0].parent
    (folder / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="evomerge convert"):
        read_model(folder)
    (folder / "config.json").unlink()
