"""What a source names: a folder first, else a model of the hub."""

from pathlib import Path

import pytest
from huggingface_hub import constants
from support.adapters import tiny_adapter

from evomerge.checkpoints import read_model
from evomerge.checkpoints.adapters.adapter import read_adapter
from evomerge.core.recipes.recipe import Adapted
from evomerge.errors import CheckpointError, HubError
from evomerge.specs.sources import (
    content_of,
    folders_of,
    input_of,
    missing,
    open_source,
    split,
    whereabouts,
)
from evomerge.testing.models import tiny_model


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The hub is off and its cache is empty, whatever this machine has."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))


def test_a_folder_that_reads_like_an_id_is_a_folder(tmp_path: Path) -> None:
    folder = tiny_model(tmp_path / "org" / "name", n_layers=1)
    model = open_source("org/name", tmp_path)
    assert model.fingerprint == read_model(folder).fingerprint
    assert model.origin is None
    assert missing("org/name", tmp_path) is None


def test_the_scheme_asks_the_hub_even_beside_such_a_folder(tmp_path: Path) -> None:
    tiny_model(tmp_path / "org" / "name", n_layers=1)
    with pytest.raises(HubError) as caught:
        open_source("hf://org/name", tmp_path)
    assert "folder" not in str(caught.value)


def test_a_mistyped_path_that_reads_like_an_id_is_told_as_both(tmp_path: Path) -> None:
    with pytest.raises(HubError) as caught:
        open_source("models/bse", tmp_path)
    for said in (str(caught.value), missing("models/bse", tmp_path) or ""):
        assert "there is no folder 'models/bse'" in said
        assert "HF_HUB_OFFLINE is set, and 'models/bse' is not whole" in said


@pytest.mark.parametrize("written", ["nowhere", "./a/b", "/a/b", "a/b/c", "a/b@../c"])
def test_a_path_that_can_be_no_id_is_told_as_a_folder(
    written: str, tmp_path: Path
) -> None:
    with pytest.raises(CheckpointError, match=r"does not exist\. Give the folder"):
        open_source(written, tmp_path)
    assert "which does not exist" in (missing(written, tmp_path) or "")


def test_a_file_and_a_malformed_id_are_refused(tmp_path: Path) -> None:
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "file").write_text("no model")
    with pytest.raises(CheckpointError, match="is a file, not a folder"):
        open_source("org/file", tmp_path)
    with pytest.raises(CheckpointError, match="is no hub id"):
        open_source("hf://a/b/c", tmp_path)
    assert "is no hub id" in (missing("hf://a/b/c", tmp_path) or "")


def test_a_plus_parts_a_model_from_its_adapter(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "org" / "base", n_layers=1)
    adapter = tiny_adapter(tmp_path / "org" / "adapter", base)
    both = f"{read_model(base).fingerprint}+{read_adapter(adapter).fingerprint}"
    for written in (
        "org/base+org/adapter",
        "./org/base + org/adapter",
        f"{base}+{adapter}",
    ):
        model = open_source(written, tmp_path)
        assert content_of(model) == both
        assert missing(written, tmp_path) is None
    assert whereabouts(model) == f"{base}+{adapter}"
    assert folders_of([model]) == dict(
        zip(both.split("+"), (str(base), str(adapter)), strict=True)
    )
    assert input_of(model) == Adapted(*both.split("+"))


@pytest.mark.parametrize(
    ("written", "parts"),
    [
        ("org/base@main+org/lora@v2", ("org/base@main", "org/lora@v2")),
        ("hf://org/base+hf://org/lora", ("hf://org/base", "hf://org/lora")),
        ("org/base@v1.0+cu118", ("org/base@v1.0+cu118", None)),
        ("org/base@v1.0+cu118+org/lora", ("org/base@v1.0+cu118", "org/lora")),
        ("c++/base", ("c++/base", None)),
        ("c++/base+lora", ("c++/base", "lora")),
        ("org/base+lora", ("org/base", "lora")),
        ("org/base+nowhere", ("org/base+nowhere", None)),
        ("org/base+", ("org/base+", None)),
    ],
)
def test_paths_and_revisions_may_hold_a_plus(
    written: str, parts: tuple[str, str | None], tmp_path: Path
) -> None:
    for folder in ("c++/base", "lora"):
        (tmp_path / folder).mkdir(parents=True)
    assert split(written, tmp_path) == parts


def test_an_adapter_that_is_not_there_is_told_as_one(tmp_path: Path) -> None:
    tiny_model(tmp_path / "base", n_layers=1)
    with pytest.raises(CheckpointError, match="the folder of an adapter saved by PEFT"):
        open_source("base+./no/adapter", tmp_path)
    said = missing("base+./no/adapter", tmp_path) or ""
    assert "expected an adapter folder" in said
    with pytest.raises(CheckpointError, match="is no adapter"):
        open_source("base+./base", tmp_path)


def test_an_adapter_for_another_base_is_refused_at_once(tmp_path: Path) -> None:
    base = tiny_model(tmp_path / "base", n_layers=1)
    tiny_adapter(tmp_path / "lora", tiny_model(tmp_path / "deep", n_layers=2))
    with pytest.raises(CheckpointError, match="for another base"):
        open_source(f"{base}+lora", tmp_path)
