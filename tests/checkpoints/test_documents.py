"""Files of a model folder are looked at before they are read, and bounded."""

import json
import os
import socket
import struct
from pathlib import Path
from typing import Any

import pytest
from support.adapters import tiny_adapter

from evomerge.checkpoints import read_header, read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.checkpoints.documents import (
    MAX_CONTAINERS,
    MAX_DEPTH,
    parse_json,
    read_bytes,
)
from evomerge.errors import CheckpointError
from evomerge.testing.models import tiny_model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    return tiny_model(tmp_path / "model", n_layers=2)


def bound(path: Path) -> Path:
    """Make a socket that lies at a path."""
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))
    return path


def piped(path: Path) -> Path:
    os.mkfifo(path)
    return path


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (piped, "pipe"),
        (bound, "socket"),
        (lambda path: Path("/dev/zero"), "device"),
        (lambda path: path.parent, "folder"),
    ],
    ids=["pipe", "socket", "device", "folder"],
)
def test_only_regular_files_are_read(
    tmp_path: Path, make: Any, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)  # a socket's path has to be short
    with pytest.raises(CheckpointError, match=f"regular file, got a {kind}"):
        read_bytes(make(Path("odd")))


def test_a_configuration_that_is_a_pipe_is_refused_at_once(model: Path) -> None:
    (model / "config.json").unlink()
    os.mkfifo(model / "config.json")
    with pytest.raises(CheckpointError, match="regular file, got a pipe"):
        read_model(model)


def test_a_file_too_long_is_refused_before_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "long.json"
    with file.open("wb") as out:
        out.truncate(1 << 40)  # takes no disk
    with pytest.raises(CheckpointError, match="at most 67108864 bytes, got 1099511627"):
        read_bytes(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "nested deeper than 100"),
        ("[" * 100_000 + "]" * 100_000, "nested deeper than 100"),
        ('{"a":' * 500 + "1" + "}" * 500, "nested deeper than 100"),
        ("[" + "[]," * MAX_CONTAINERS + "1]", "more than 2097152 lists"),
        ('{"a": NaN}', "NaN is no number"),
        ("[-Infinity]", "-Infinity is no number"),
        ("[1e999]", "1e999 is no number"),
        ("[" + "9" * 5000 + "]", "digits"),
        (r'{"a": "\ud800"}', "surrogates not allowed"),
        ("\ufeff{}", "BOM"),
    ],
)
def test_json_that_no_program_should_hold_is_refused(text: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        parse_json(text.encode())


def test_json_of_ordinary_models_is_read() -> None:
    deep = "[" * MAX_DEPTH + "]" * MAX_DEPTH
    assert parse_json(deep.encode()) is not None
    assert parse_json(rb'["\ud83d\ude00"]') == ["\U0001f600"]
    assert parse_json(b'{"model_max_length": 1000000000000000019884624838656}')


@pytest.mark.parametrize(
    "entry",
    [
        {"dtype": "F32", "shape": [1] * 9, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [9] * 100_000, "data_offsets": [0, 4]},
        {"dtype": "F32", "shape": [2**63], "data_offsets": [0, 2**65]},
        {"dtype": "F32", "shape": [10**4000, 0], "data_offsets": [0, 0]},
    ],
    ids=["axes", "many axes", "long", "digits"],
)
def test_a_shape_that_no_tensor_has_is_refused(
    tmp_path: Path, entry: dict[str, Any]
) -> None:
    header = json.dumps({"a": entry}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    with pytest.raises(CheckpointError, match="the header is corrupt"):
        read_header(file)


@pytest.mark.parametrize("n", [0, 1, 3, 10**9, 10**30])
def test_layers_that_are_not_stored_are_named_without_counting_to_them(
    model: Path, n: int
) -> None:
    file = model / "config.json"
    config = json.loads(file.read_text())
    file.write_text(json.dumps({**config, "num_hidden_layers": n}))
    with pytest.raises(CheckpointError, match=r"num_hidden_layers|missing or too many"):
        read_model(model)


@pytest.mark.parametrize(
    "name", ["config.json", "model.safetensors", "tokenizer.json", "added_tokens.json"]
)
def test_a_link_out_of_a_models_folder_is_refused(model: Path, name: str) -> None:
    other = model.parent / "elsewhere"
    if (model / name).exists():
        (model / name).rename(other)
    else:
        other.write_text("{}")
    (model / name).symlink_to(other)
    with pytest.raises(CheckpointError, match=f"{name}: is a link out of the folder"):
        read_model(model)


def test_a_link_out_of_an_adapters_folder_is_refused(model: Path) -> None:
    adapter = tiny_adapter(model.parent / "adapter", model)
    weights = adapter / "adapter_model.safetensors"
    weights.symlink_to(weights.rename(model.parent / "elsewhere"))
    with pytest.raises(CheckpointError, match="is a link out of the folder"):
        read_adapter(adapter)


def test_a_shard_behind_a_linked_folder_is_refused(model: Path) -> None:
    outside = model.parent / "outside"
    outside.mkdir()
    (model / "model.safetensors").rename(outside / "a.safetensors")
    (model / "sub").symlink_to(outside)
    index = {"weight_map": {"model.norm.weight": "sub/a.safetensors"}}
    (model / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(CheckpointError, match="is a link out of the folder"):
        read_model(model)


def test_a_folder_may_itself_be_a_link_and_hold_links_within(model: Path) -> None:
    (model / "config.json").rename(model / "kept.json")
    (model / "config.json").symlink_to("kept.json")
    linked = model.parent / "linked"
    linked.symlink_to(model)
    assert read_model(linked).fingerprint == read_model(model).fingerprint


def test_links_of_a_hubs_cache_lead_to_its_blobs_and_nowhere_else(model: Path) -> None:
    repo = model.parent / "models--org--name"
    snapshot = repo / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (repo / "blobs").mkdir()
    for file in model.iterdir():
        file.rename(repo / "blobs" / file.name)
        (snapshot / file.name).symlink_to(f"../../blobs/{file.name}")
    assert read_model(snapshot).n_layers == 2
    blob = repo / "blobs" / "tokenizer.json"
    blob.symlink_to(blob.rename(repo.parent / "private"))
    with pytest.raises(CheckpointError, match="is a link out of the folder"):
        read_model(snapshot)
