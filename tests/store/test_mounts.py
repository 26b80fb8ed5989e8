"""A network file system is known by the innermost mount above a path."""

from pathlib import Path

import pytest

from evomerge.errors import StoreError
from evomerge.store.databases import sqlite
from evomerge.store.sql import open_store

LINES = {
    "nfs": "36 1 0:31 / {} rw shared:1 - nfs4 server:/x rw,vers=4.2",
    "smb": "36 1 0:31 / {} rw - cifs //server/x rw",
    "sshfs": "36 1 0:31 / {} rw - fuse.sshfs me@server: rw",
    "lustre": "36 1 0:31 / {} rw - lustre 10.0.0.1@tcp:/x rw",
}
ROOT = "22 1 8:1 / / rw,relatime - ext4 /dev/sda1 rw"


@pytest.fixture
def mounted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Say what is mounted where."""

    def mounted(*lines: str) -> None:
        table = tmp_path / "mountinfo"
        table.write_text("\n".join([ROOT, *lines]) + "\n")
        monkeypatch.setattr(sqlite, "MOUNTS", table)

    return mounted


@pytest.fixture
def here(tmp_path: Path) -> Path:
    folder = tmp_path / "here"
    folder.mkdir()
    return folder


@pytest.mark.parametrize("kind", LINES)
def test_a_file_on_a_network_file_system_is_refused(
    mounted, here: Path, kind: str
) -> None:
    mounted(LINES[kind].format(here))
    with pytest.raises(StoreError, match="is on a network file system"):
        open_store(f"sqlite:///{here}/x.db")
    assert list(here.iterdir()) == []


@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([], None),
        (["36 1 0:31 / {here} rw - nfs4 s:/x rw"], "nfs4"),
        (["36 1 0:31 / {here} rw - nfs4 s:/x rw", "37 1 8:2 / {here}/a b rw"], "nfs4"),
        # A local disk mounted inside, and the other way round.
        (
            [
                "36 1 0:31 / {parent} rw - nfs4 s:/x rw",
                "37 36 8:2 / {here} rw - ext4 /dev/sdb rw",
            ],
            None,
        ),
        (
            [
                "37 36 8:2 / {here} rw - nfs s:/y rw",
                "36 1 0:31 / {parent} rw - ext4 /dev/sdb rw",
            ],
            "nfs",
        ),
        # A later mount on the same point hides the earlier one; so does a bind mount.
        (
            [
                "36 1 0:31 / {here} rw - nfs4 s:/x rw",
                "37 36 8:1 /srv/local {here} rw - xfs /dev/sdc rw",
            ],
            None,
        ),
        (
            [
                "36 1 8:1 / {here} rw - xfs /dev/sdc rw",
                "37 36 0:31 /sub {here} rw,noatime master:2 - nfs4 s:/x rw",
            ],
            "nfs4",
        ),
        # A name that only begins alike is another folder.
        (["36 1 0:31 / {parent}/her rw - nfs4 s:/x rw"], None),
        (["36 1 0:31 / {here} rw - fuse.portal portal rw"], None),
        (["36 1 0:31 / {here} rw - overlay overlay rw"], None),
        (["nonsense"], None),
    ],
)
def test_the_innermost_mount_decides(
    mounted, here: Path, lines: list[str], kind: str | None
) -> None:
    mounted(*(line.format(here=here, parent=here.parent) for line in lines))
    assert sqlite.network_kind(here) == kind


def test_a_mount_point_with_spaces_is_read(mounted, here: Path) -> None:
    folder = here / "my disk\ttab"
    folder.mkdir()
    escaped = str(folder).replace(" ", "\\040").replace("\t", "\\011")
    mounted(LINES["nfs"].format(escaped))
    assert sqlite.network_kind(folder) == "nfs4"
    assert sqlite.network_kind(here) is None


def test_a_link_is_followed_to_where_it_leads(mounted, here: Path) -> None:
    (here / "far").mkdir()
    (here / "near").symlink_to(here / "far")
    mounted(LINES["nfs"].format(here / "far"))
    assert sqlite.network_kind(here / "near") == "nfs4"


def test_where_nothing_tells_of_mounts_every_folder_is_local(
    here: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "MOUNTS", here / "gone")
    assert sqlite.network_kind(here) is None
