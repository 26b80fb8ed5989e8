"""Rows that nobody wrote are damage, whatever their columns hold."""

import json
import shutil
import sqlite3
import zlib
from contextlib import closing
from pathlib import Path

import pytest

from evomerge.errors import StoreError
from evomerge.store.sql import open_store
from evomerge.store.tables import decoding
from evomerge.store.tables.decoding import is_number, unpack

READ = {
    "em_study": lambda store: store.studies(),
    "em_generation": lambda store: store.generations(1),
    "em_trial": lambda store: (store.trials(1), store.history(1)),
    "em_attempt": lambda store: store.attempts(1),
    "em_part": lambda store: store.parts(1),
    "em_event": lambda store: store.events(1),
    "em_task": lambda store: store.tasks(1),
}
EDITS = [
    ("em_study", "config", "'[]'"),
    ("em_study", "created", "'yesterday'"),
    ("em_study", "created", "1e300"),
    ("em_study", "seed", "'x'"),
    ("em_study", "name", "x'00'"),
    ("em_generation", "size", "'many'"),
    ("em_generation", "number", "number + 1"),
    ("em_generation", "memory", "'3'"),
    ("em_trial", "generation", "'first'"),
    ("em_trial", "scores", """'{"x/acc": "good"}'"""),
    ("em_trial", "scores", """'{"x/acc": 1e999}'"""),
    ("em_trial", "state", "'resting'"),
    ("em_trial", "cause", "'bad luck'"),
    ("em_trial", "point", "'[1]'"),
    ("em_trial", "faults", "'some'"),
    ("em_attempt", "end", "'somehow'"),
    ("em_attempt", "began", "-1e300"),
    ("em_part", "blocks", "'[[1,0]]'"),
    ("em_part", "end", "'somehow'"),
    ("em_task", "metrics", "'{}'"),
    ("em_task", "metrics", "'[1]'"),
]


@pytest.mark.parametrize(
    ("table", "column", "value"), EDITS, ids=[f"{c} {v:.12}" for _, c, v in EDITS]
)
def test_a_value_that_was_never_written_is_told_as_damage(
    searched_file: Path, tmp_path: Path, table: str, column: str, value: str
) -> None:
    shutil.copy(searched_file, tmp_path / "x.db")
    with closing(sqlite3.connect(tmp_path / "x.db")) as database:
        database.execute(f"UPDATE OR IGNORE {table} SET {column} = {value}")
        database.commit()
    store = open_store(f"sqlite:///{tmp_path}/x.db")
    try:
        with pytest.raises(StoreError, match=r"cannot be read \(.*restore it from"):
            READ[table](store)
    finally:
        store.close()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"no zlib",
        zlib.compress(b"[1, 2]")[:-3],
        zlib.compress(b"[" * 5000 + b"]" * 5000),
        zlib.compress(b"[NaN]"),
        zlib.compress(b" " * (decoding.MAX_TEXT + 1)),
    ],
    ids=["empty", "other", "cut", "deep", "nan", "bomb"],
)
def test_a_body_that_was_never_packed_is_told_as_damage(body: bytes) -> None:
    with pytest.raises(StoreError, match="A body in the database cannot be read"):
        unpack("A body", body)


def test_numbers_are_those_that_a_float_can_hold() -> None:
    assert all(map(is_number, (0, -1.5, 10**300)))
    odd = (True, None, "1", [], json.loads("1e999"), float("nan"), 10**400)
    assert not any(map(is_number, odd))
