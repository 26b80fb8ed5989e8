"""What a source names: a folder first, else a model of the hub."""

from pathlib import Path

import pytest
from huggingface_hub import constants

from evomerge.checkpoints import read_model
from evomerge.errors import CheckpointError, HubError
from evomerge.specs.sources import missing, open_source
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
