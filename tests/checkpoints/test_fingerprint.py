"""Fingerprints: of content, whatever the place and the memo."""

import json
import os
from pathlib import Path

import pytest

from evomerge.checkpoints import fingerprint as module
from evomerge.checkpoints.fingerprint import MEMO_NAME, fingerprint
from evomerge.errors import CheckpointError


def folder(path: Path, **files: bytes) -> Path:
    path.mkdir()
    for name, content in files.items():
        (path / name).write_bytes(content)
    return path


def test_equal_content_has_one_name_wherever_it_lies(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a=b"1", b=b"2")
    two = folder(tmp_path / "two", a=b"1", b=b"2", ignored=b"3")
    assert fingerprint(one, ["a", "b"]) == fingerprint(two, ["b", "a", "a"])


@pytest.mark.parametrize("files", [{"a": b"1", "b": b"3"}, {"a": b"2", "b": b"1"}])
def test_other_content_has_another_name(
    tmp_path: Path, files: dict[str, bytes]
) -> None:
    one = folder(tmp_path / "one", a=b"1", b=b"2")
    two = folder(tmp_path / "two", **files)
    assert fingerprint(one, ["a", "b"]) != fingerprint(two, ["a", "b"])


def test_a_changed_file_is_hashed_again(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a=b"before")
    first = fingerprint(one, ["a"], tmp_path / "cache")
    (one / "a").write_bytes(b"after!")
    assert fingerprint(one, ["a"], tmp_path / "cache") != first


def test_the_memo_spares_the_second_reading(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = folder(tmp_path / "one", a=b"secret")
    cache = tmp_path / "new" / "cache"
    first = fingerprint(one, ["a"], cache)
    stat = (one / "a").stat()
    # The same size, time and inode: only a memo can still give the old name.
    (one / "a").write_bytes(b"SECRET")
    os.utime(one / "a", ns=(stat.st_atime_ns, stat.st_mtime_ns))
    monkeypatch.setattr(module, "_known", {})
    assert fingerprint(one, ["a"], cache) == first
    monkeypatch.setattr(module, "_known", {})
    assert fingerprint(one, ["a"]) != first


def test_what_the_process_knew_already_reaches_the_memo(tmp_path: Path) -> None:
    one = folder(tmp_path / "one", a=b"1")
    fingerprint(one, ["a"])
    fingerprint(one, ["a"], tmp_path / "cache")
    assert len(json.loads((tmp_path / "cache" / MEMO_NAME).read_text())) == 1


@pytest.mark.parametrize("text", ["", "{", "[]", '{"x": 3}', "\0"])
def test_a_broken_memo_only_costs_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    one = folder(tmp_path / "one", a=b"1")
    expected = fingerprint(one, ["a"])
    cache = folder(tmp_path / "cache")
    (cache / MEMO_NAME).write_text(text)
    monkeypatch.setattr(module, "_known", {})
    assert fingerprint(one, ["a"], cache) == expected
    memo = json.loads((cache / MEMO_NAME).read_text())
    assert any("one/a|1|" in key for key in memo)


def test_a_cache_folder_that_cannot_be_made_is_no_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = folder(tmp_path / "one", a=b"1")
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setattr(module, "_known", {})
    assert fingerprint(one, ["a"], tmp_path / "file" / "cache")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="gone"):
        fingerprint(tmp_path, ["gone"])
