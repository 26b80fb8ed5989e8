"""Exports are fetched as far as they come, and unpacked if they are what they say."""

import io
import json
import re
import tarfile
from collections.abc import Callable
from pathlib import Path

import pytest
from support.replicas import Handler, replica

from evomerge.checkpoints import read_model
from evomerge.client import downloads
from evomerge.client.downloads import Archive, unpack
from evomerge.client.remote import RemoteService
from evomerge.client.settings import addresses
from evomerge.client.transport import Transport
from evomerge.errors import ClusterUnreachableError, ExportError
from evomerge.testing.models import tiny_model

TOKEN = "emk_" + "a" * 43


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("there") / "model"
    tiny_model(folder, seed=1, n_layers=2)
    (folder / "README.md").write_text("a card")
    (folder / "recipe.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def archive(model: Path) -> bytes:
    return tar_of({file.name: file.read_bytes() for file in model.iterdir()})


def tar_of(files: dict[str, bytes], *members: tarfile.TarInfo) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        for name, content in files.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
        for member in members:
            tar.addfile(member)
    return out.getvalue()


def special(name: str, kind: bytes, target: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo(name)
    info.type, info.linkname = kind, target
    return info


class There:
    """A replica that has one export, and sends some of its bytes at a time."""

    def __init__(self, content: bytes, fingerprint: str | None, **said: object) -> None:
        self.content = content
        self.at_once = len(content)
        self.ranges: list[str] = []
        self.knows_ranges = True
        self.export = {
            "id": "7",
            "name": "ann/x",
            "trial": 3,
            "is_scored": True,
            "state": "finished",
            "why": None,
            "bytes": len(content),
            "fingerprint": fingerprint,
            **said,
        }

    def __call__(self, handler: Handler) -> None:
        if not handler.asked.path.endswith("/files"):
            handler.send(json.dumps(self.export).encode())
            return
        said = handler.asked.headers.get("range", "bytes=0-")
        self.ranges.append(said)
        found = re.fullmatch(r"bytes=(\d+)-", said)
        assert found
        start = int(found[1]) if self.knows_ranges else 0
        left = self.content[start:]
        handler.send(
            left[: self.at_once], 206 if self.knows_ranges else 200, length=len(left)
        )


def fetch(there: There, out: Path, **more: object) -> Path:
    with replica(there) as one:
        transport = Transport(addresses(one.url), TOKEN, patience_s=0.6)
        return RemoteService(transport).download("x", "7", out, **more)  # type: ignore[arg-type]


def test_a_folder_comes_whole_and_is_what_was_promised(
    model: Path, archive: bytes, tmp_path: Path
) -> None:
    told: list[tuple[int, int]] = []
    there = There(archive, read_model(model).fingerprint)
    out = tmp_path / "new" / "out"
    assert fetch(there, out, progress=lambda *now: told.append(now)) == out
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in model.iterdir()
    }
    assert told[-1] == (len(archive), len(archive))
    assert list(out.parent.iterdir()) == [out]


def test_one_that_is_cut_off_goes_on_where_it_was(
    model: Path, archive: bytes, tmp_path: Path
) -> None:
    there = There(archive, read_model(model).fingerprint)
    there.at_once = len(archive) // 3 + 1
    fetch(there, tmp_path / "out")
    assert there.ranges == [f"bytes={n * there.at_once}-" for n in range(3)]


def test_a_server_without_ranges_begins_again(archive: bytes, tmp_path: Path) -> None:
    there = There(archive, None)
    there.knows_ranges = False
    (tmp_path / ".out.7.part").write_bytes(b"x" * 100)
    fetch(there, tmp_path / "out")
    assert there.ranges == ["bytes=100-"]
    assert (tmp_path / "out" / "config.json").is_file()


def test_what_came_is_kept_for_the_next_call(archive: bytes, tmp_path: Path) -> None:
    class Stuck(There):
        def __call__(self, handler: Handler) -> None:
            self.at_once = 0 if self.ranges else len(archive) // 2
            super().__call__(handler)

    with pytest.raises(ClusterUnreachableError, match="is kept: ask for the same"):
        fetch(Stuck(archive, None), tmp_path / "out")
    assert not (tmp_path / "out").exists()
    there = There(archive, None)
    fetch(there, tmp_path / "out")
    assert there.ranges == [f"bytes={len(archive) // 2}-"]


def test_one_that_is_not_finished_or_has_failed_is_told(tmp_path: Path) -> None:
    for said, match in (
        ({"state": "running"}, "is running; wait"),
        ({"state": "failed", "why": "the disk is full"}, "failed: the disk is full"),
    ):
        with pytest.raises(ExportError, match=match):
            fetch(There(b"", None, **said), tmp_path / "out")


def test_a_folder_that_is_there_is_left_alone(archive: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    there = There(archive, None)
    with pytest.raises(ExportError, match="exists already; nothing is overwritten"):
        fetch(there, out)
    with pytest.raises(ExportError, match="is no folder that was exported before"):
        fetch(there, out, replaced=True)
    assert there.ranges == []


def test_an_earlier_export_is_replaced_if_asked(archive: bytes, tmp_path: Path) -> None:
    out = tmp_path / "out"
    fetch(There(archive, None), out)
    (out / "old.txt").touch()
    fetch(There(archive, None), out, replaced=True)
    assert not (out / "old.txt").exists()
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("members", "said"),
    [
        ([special("a", tarfile.SYMTYPE, "/etc/passwd")], "'a' is no plain file"),
        ([special("a", tarfile.LNKTYPE, "b")], "'a' is no plain file"),
        ([special("a", tarfile.FIFOTYPE)], "'a' is no plain file"),
        ([special("a", tarfile.CHRTYPE)], "'a' is no plain file"),
        ([special("../a", tarfile.REGTYPE)], "'../a' lies elsewhere"),
        ([special("a/../../b", tarfile.REGTYPE)], "lies elsewhere"),
        ([special("/a", tarfile.REGTYPE)], "'/a' lies elsewhere"),
        ([special("a//b", tarfile.REGTYPE)], "lies elsewhere"),
        ([special("a\\b", tarfile.REGTYPE)], "has a name that no file should have"),
        ([special("a\x1bb", tarfile.REGTYPE)], "has a name that no file should have"),
        ([special("a" * 1001, tarfile.REGTYPE)], "has a name that no file should"),
        ([special("a", tarfile.REGTYPE)] * 2, "it holds one name twice"),
        (
            [special("a", tarfile.REGTYPE), special("a/b", tarfile.REGTYPE)],
            "it holds one name twice",
        ),
        ([special(str(n), tarfile.REGTYPE) for n in range(21)], "more than 20 files"),
    ],
)
def test_an_archive_that_would_do_harm_is_refused_whole(
    members: list[tarfile.TarInfo],
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(downloads, "MAX_MEMBERS", 20)
    content = tar_of({"fine.txt": b"fine"}, *members)
    with pytest.raises(ExportError, match=re.escape(said)):
        fetch(There(content, None), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (lambda tar: b"\x1f\x8b" + tar, "it is no tar"),
        (lambda tar: b"nonsense" * 1000, "it is no tar"),
        (lambda tar: tar[: len(tar) // 2], "its files are larger than it is"),
    ],
)
def test_what_is_no_archive_is_refused(
    spoil: Callable[[bytes], bytes], said: str, archive: bytes, tmp_path: Path
) -> None:
    file = tmp_path / "part"
    file.write_bytes(spoil(archive))
    with pytest.raises(ExportError, match=said):
        unpack(file, tmp_path / "out", Archive("7", 1, None))
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_differs_by_one_byte_is_refused(
    model: Path, archive: bytes, tmp_path: Path
) -> None:
    at = archive.index(b"model.safetensors") + 4096
    spoilt = archive[:at] + bytes([archive[at] ^ 1]) + archive[at + 1 :]
    with pytest.raises(ExportError, match=r"has the fingerprint|holds no model"):
        fetch(There(spoilt, read_model(model).fingerprint), tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_more_than_was_promised_is_refused(archive: bytes, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="More than the 100 bytes"):
        fetch(There(archive, None, bytes=100), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_an_archive_larger_than_the_disk_is_not_begun(tmp_path: Path) -> None:
    there = There(b"", None, bytes=1 << 60)
    with pytest.raises(ExportError, match="GB left; the export takes twice"):
        fetch(there, tmp_path / "out")
    assert there.ranges == []
