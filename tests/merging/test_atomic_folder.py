"""A folder that takes the place of another: whole at every moment."""

import errno
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.errors import ExportError
from evomerge.merging.output import atomic_folder as module
from evomerge.merging.output.atomic_folder import atomic_folder

FILES = ("a", "b", "c")


def put(target: Path, text: str, **how: bool) -> None:
    with atomic_folder(target, 10, **how) as folder:
        for name in FILES:
            (folder / name).write_text(text)


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_exchanged", lambda new, target: False)


def killed_while(work: Callable[[], None], after_s: float | None = None) -> None:
    if (pid := os.fork()) == 0:
        try:
            work()
        finally:
            os._exit(0)
    if after_s is not None:
        time.sleep(after_s)
        os.kill(pid, signal.SIGKILL)
    assert os.waitpid(pid, 0)[1] == signal.SIGKILL


@pytest.mark.parametrize("prepare", [lambda patch: None, without_exchange])
def test_an_earlier_folder_is_replaced_and_nothing_is_left(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, prepare
) -> None:
    prepare(monkeypatch)
    target = tmp_path / "out"
    put(target, "one", replace=True)
    with (target / "a").open() as reading:
        put(target, "two", replace=True)
        assert reading.read() == "one"  # who has it open keeps it
    assert {(target / name).read_text() for name in FILES} == {"two"}
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_without_leave_nothing_is_replaced(tmp_path: Path) -> None:
    put(tmp_path / "out", "one")
    with pytest.raises(ExportError, match="exists already"):
        put(tmp_path / "out", "two")
    (tmp_path / "link").symlink_to("out")
    with pytest.raises(ExportError, match="exists already"):
        put(tmp_path / "link", "two", replace=True)
    assert (tmp_path / "out" / "a").read_text() == "one"


def test_a_reader_always_finds_a_whole_folder_while_writers_are_killed(
    tmp_path: Path,
) -> None:
    target = tmp_path / "out"
    put(target, "0" * 100)
    if not module._exchanged(target, make(tmp_path / "other")):
        pytest.skip("this file system exchanges nothing")
    put(target, "0" * 100, replace=True)

    def replace_for_ever() -> None:
        for n in range(10**6):
            put(target, str(n % 10) * 100, replace=True)

    def read_for_ever() -> None:
        while True:
            for name in FILES:
                if len((target / name).read_text()) != 100:
                    os._exit(3)

    if (reader := os.fork()) == 0:
        try:
            read_for_ever()
        finally:
            os._exit(4)
    try:
        for n in range(20):
            killed_while(replace_for_ever, 0.02 + 0.003 * n)
        assert os.waitpid(reader, os.WNOHANG) == (0, 0)
    finally:
        os.kill(reader, signal.SIGKILL)
    put(target, "last", replace=True)
    assert sorted(one.name for one in tmp_path.iterdir()) == ["other", "out"]


def make(folder: Path) -> Path:
    put(folder, "x")
    return folder


def test_where_nothing_can_be_exchanged_a_killed_one_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    target = tmp_path / "out"
    put(target, "one")
    rename = Path.rename

    def killed_between(self: Path, goal: Path) -> Path:
        if goal == target:
            os.kill(os.getpid(), signal.SIGKILL)
        return rename(self, goal)

    def work() -> None:
        Path.rename = killed_between  # type: ignore[method-assign, assignment]
        put(target, "two", replace=True)

    killed_while(work)  # by itself
    assert not target.exists()
    with pytest.raises(ExportError, match="exists already"):
        put(target, "three")  # it was put back
    assert (target / "a").read_text() == "one"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]


def test_what_cannot_move_in_leaves_the_earlier_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    without_exchange(monkeypatch)
    target = tmp_path / "out"
    put(target, "one")
    rename = Path.rename

    def refuse(self: Path, goal: Path) -> Path:
        if ".partial-" in self.name:
            raise OSError(errno.EACCES, "Permission denied")
        return rename(self, goal)

    monkeypatch.setattr(Path, "rename", refuse)
    with pytest.raises(ExportError, match="cannot be written: Permission denied"):
        put(target, "two", replace=True)
    assert (target / "a").read_text() == "one"
    assert [one.name for one in tmp_path.iterdir()] == ["out"]
