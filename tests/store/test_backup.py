"""A backup is one file copy or one pg_dump: it opens, holds all, and goes on alike."""

import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from support.postgres import make_database, programs
from support.searched import EVENTFUL, contents, search_small

from evomerge.core.study import Budget
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store

PAGE = Path(__file__).parents[2] / "docs" / "databases.md"
LONGER = replace(EVENTFUL, budget=Budget(trials=14))


def check_copy(original: str, copy: str, folder: Path) -> None:
    """A copy holds what the original holds, and becomes what the original becomes."""
    before = contents(original)
    assert contents(copy) == before
    store = open_store(copy)
    assert list(store.check()) == []
    store.close()
    ends = {
        url: search_small(url, folder / str(n), LONGER)
        for n, url in enumerate((original, copy))
    }
    assert set(ends.values()) == {"trial budget used"}
    after = contents(copy)
    assert after == contents(original)
    assert len(after["candidates"]) == 16  # type: ignore[arg-type]
    assert len(before["candidates"]) == 10  # type: ignore[arg-type]


def test_a_closed_file_is_copied_as_any_file(
    searched_file: Path, tmp_path: Path
) -> None:
    assert [file.name for file in searched_file.parent.glob("searched.db*")] == [
        "searched.db"
    ]
    for name in ("original", "copy"):
        shutil.copy(searched_file, tmp_path / f"{name}.db")
    lite = f"sqlite:///{tmp_path}"
    check_copy(f"{lite}/original.db", f"{lite}/copy.db", tmp_path)


@pytest.mark.slow
def test_an_open_file_is_copied_with_its_log_as_the_page_says(
    searched_file: Path, tmp_path: Path
) -> None:
    shutil.copy(searched_file, tmp_path / "evomerge.db")
    url = f"sqlite:///{tmp_path}/evomerge.db"
    store = open_store(url)
    store.create_study("later", {}, {}, 1)
    assert (tmp_path / "evomerge.db-wal").stat().st_size > 0
    lines = re.findall(r"^python (-c .*)$", PAGE.read_text(), re.MULTILINE)
    assert len(lines) == 1
    program = [sys.executable, *shlex.split(lines[0])]
    subprocess.run(program, cwd=tmp_path, check=True)
    copied = open_store(f"sqlite:///{tmp_path}/copy.db")
    assert [study.name for study in copied.studies()] == ["small", "later"]
    copied.close()
    store.close()
    check_copy(url, f"sqlite:///{tmp_path}/copy.db", tmp_path)


@pytest.mark.slow
def test_a_dump_is_loaded_into_an_empty_database(
    postgres_admin: str, searched_template: str, tmp_path: Path
) -> None:
    original = make_database(postgres_admin, searched_template)
    copy = make_database(postgres_admin)
    file = tmp_path / "merges.sql"
    with file.open("w") as sql:
        subprocess.run([programs() / "pg_dump", original], stdout=sql, check=True)
    psql = [programs() / "psql", "--quiet", "--set", "ON_ERROR_STOP=1", copy]
    with file.open() as sql:
        subprocess.run(psql, stdin=sql, stdout=subprocess.DEVNULL, check=True)
    check_copy(original, copy, tmp_path)


@pytest.mark.slow
def test_a_copy_made_while_a_study_ran_goes_on_when_its_lease_is_over(
    searched_file: Path, tmp_path: Path
) -> None:
    shutil.copy(searched_file, tmp_path / "x.db")
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    store.lease(store.study("small").id, replace(this_process(), pid=1), 0.01)
    store.close()
    shutil.copy(tmp_path / "x.db", tmp_path / "y.db")
    lite = f"sqlite:///{tmp_path}"
    check_copy(f"{lite}/x.db", f"{lite}/y.db", tmp_path)
