"""A database that may only be looked at answers what looks, and is left alone."""

import contextlib
import ctypes
import io
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from support.postgres import make_database
from support.searched import by_hand

from evomerge.cli.app import main
from evomerge.errors import StoreUnreachableError
from evomerge.store.databases.sqlite import Sqlite
from evomerge.store.sql import open_store

LOOKING = (
    ("studies",),
    ("status", "small"),
    ("status", "small", "--json"),
    ("front", "small"),
    ("trials", "small", "--json"),
    ("attempts", "small"),
    ("show", "small", "--trial", "1"),
    ("db", "check"),
)
WRITING = ("delete", "small", "--yes")
NOBODY = 65534


def answers(url: str) -> list[tuple[int, str, str]]:
    """Call every command that looks, and one that writes."""
    found = []
    for words in (*LOOKING, WRITING):
        out, err = io.StringIO(), io.StringIO()
        with (
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
            pytest.raises(SystemExit) as ended,
        ):
            main([*words, "--db", url])
        found.append((ended.value.code, out.getvalue(), err.getvalue()))
    return found


def apart(prepare: Callable[[], object], url: str) -> list[tuple[int, str, str]]:
    """Call them in a process of its own: all it needs is loaded already."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            prepare()
            os.write(writer, json.dumps(answers(url)).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        told = pipe.read()
    os.waitpid(pid, 0)
    if not told:
        pytest.skip("this system does not let us")
    return [tuple(one) for one in json.loads(told)]


def somebody_else() -> None:
    if os.geteuid() == 0:  # root may write anything
        os.setuid(NOBODY)


@pytest.fixture
def folder(searched_file: Path) -> Iterator[Path]:
    """A folder that others may reach, with a database in it."""
    with tempfile.TemporaryDirectory() as name:
        shutil.copyfile(searched_file, Path(name) / "x.db")
        yield Path(name)
        Path(name).chmod(0o755)


@pytest.fixture
def expected(searched_file: Path, tmp_path: Path) -> list[str]:
    """What the commands say of the same database where it may be written."""
    shutil.copyfile(searched_file, tmp_path / "y.db")
    found = answers(f"sqlite:///{tmp_path}/y.db")
    assert [code for code, _, _ in found] == [0] * len(found)
    return [out for _, out, _ in found[:-1]]


def assert_only_looked_at(
    found: list[tuple[int, str, str]], expected: list[str], told: str
) -> None:
    *looked, (code, _, err) = found
    assert [(c, out, err) for c, out, err in looked] == [(0, o, "") for o in expected]
    assert code == 2
    assert told in err


@pytest.mark.parametrize("modes", [(0o444, 0o555), (0o444, 0o777), (0o666, 0o555)])
def test_a_file_or_folder_that_may_not_be_written(
    folder: Path, expected: list[str], modes: tuple[int, int]
) -> None:
    file = folder / "x.db"
    before = file.read_bytes()
    file.chmod(modes[0])
    folder.chmod(modes[1])
    found = apart(somebody_else, f"sqlite:///{file}")
    assert_only_looked_at(found, expected, "make the file and its folder writable")
    assert [one.name for one in folder.iterdir()] == ["x.db"]
    assert file.read_bytes() == before


@pytest.mark.skipif(os.geteuid() != 0, reason="only root mounts")
def test_a_read_only_mount(folder: Path, expected: list[str]) -> None:
    def mount() -> None:
        if ctypes.CDLL(None).unshare(0x00020000) != 0:  # mounts of its own
            raise OSError
        for words in (
            ("--make-rprivate", "/"),
            ("--bind", folder, folder),
            ("-o", "remount,bind,ro", folder),
        ):
            subprocess.run(["mount", *words], check=True, capture_output=True)

    found = apart(mount, f"sqlite:///{folder}/x.db")
    assert_only_looked_at(found, expected, "it is read-only")


def test_a_log_that_a_living_or_a_killed_writer_left(
    folder: Path, expected: list[str]
) -> None:
    url = f"sqlite:///{folder}/x.db"
    store = open_store(url)
    study = store.study("small")
    store.add_event(study.id, "note", {})  # stands in the log alone
    names = {one.name for one in folder.iterdir()}
    assert names == {"x.db", "x.db-wal", "x.db-shm"}
    for one in folder.iterdir():
        one.chmod(0o444)
    folder.chmod(0o555)
    assert_only_looked_at(apart(somebody_else, url), expected, "it is read-only")
    folder.chmod(0o755)
    killed = folder / "killed"
    killed.mkdir()
    for name in names:
        shutil.copy(folder / name, killed)
    store.close()
    killed.chmod(0o555)
    url = f"sqlite:///{killed}/x.db"
    assert_only_looked_at(apart(somebody_else, url), expected, "it is read-only")
    killed.chmod(0o755)
    (killed / "x.db-shm").unlink()
    killed.chmod(0o555)
    for code, _, err in apart(somebody_else, url):
        assert code == 2
        assert "its newest transactions are in 'x.db-wal'" in err
    killed.chmod(0o755)


def test_a_file_that_is_written_after_all_is_not_half_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = f"sqlite:///{folder}/x.db"
    monkeypatch.setattr(Sqlite, "_may_write", lambda self: False)
    looking = open_store(url, create=False)
    n_studies = len(looking.studies())
    monkeypatch.undo()
    writing = open_store(url)
    writing.create_study("new", {}, {}, 1)
    monkeypatch.setattr(Sqlite, "_may_write", lambda self: False)
    with pytest.raises(StoreUnreachableError, match="somebody else wrote to it"):
        looking.studies()
    assert len(looking.studies()) == n_studies + 1  # the log tells
    writing.close()
    assert len(looking.studies()) == n_studies + 1
    looking.close()


def test_a_role_that_may_only_select(
    postgres_admin: str, searched_template: str, expected: list[str], call
) -> None:
    url = make_database(postgres_admin, searched_template)
    by_hand(
        url,
        "DO $$ BEGIN CREATE ROLE looker LOGIN; "
        "EXCEPTION WHEN duplicate_object THEN NULL; END $$",
        "GRANT USAGE ON SCHEMA public TO looker",
        "GRANT SELECT ON ALL TABLES IN SCHEMA public TO looker",
    )
    found = answers(urlsplit(url)._replace(netloc="looker@").geturl())
    *looked, (code, _, err) = found
    assert [(c, err) for c, _, err in looked] == [(0, "")] * len(LOOKING)
    assert looked[-1][1] == expected[-1]
    assert code == 2
    assert "the user lacks rights" in err
    assert "USAGE and SELECT if it is only to look" in err
