"""The SQLite store keeps every promise of the protocol."""

import re
import sqlite3
import stat
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
import sqlalchemy as sa

from evomerge.errors import SchemaError, StoreError
from evomerge.store.base import Report
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.store.tables.schema import metadata
from evomerge.testing.store_contract import StoreContract
from evomerge.testing.store_samples import (
    CONFIG,
    answers,
    candidates,
    scored,
    search_block,
    task,
)


@pytest.fixture
def url(tmp_path):
    return f"sqlite:///{tmp_path}/studies.db"


class TestSqliteStore(StoreContract):
    @pytest.fixture
    def make_store(self, url):
        return lambda: open_store(url)


class TestPostgresStore(StoreContract):
    @pytest.fixture
    def make_store(self, postgres_url):
        return lambda: open_store(postgres_url)


def test_repr_shows_the_url(url):
    assert repr(open_store(url)) == f"SqlStore({url!r})"


@pytest.mark.parametrize(
    ("bad", "said"),
    [
        ("studies.db", "not a database URL"),
        ("", "not a database URL"),
        ("postgresql+psycopg2://me:hunter2@db/x", "leave it out"),
        ("postgresql://me:hunter2@db", "does not name a database"),
        ("mysql+pymysql://me:hunter2@db/x?password=hunter2", "SQLite or Postgre"),
        ("nonsense://me:hunter2@db/x", "SQLite or PostgreSQL"),
        ("postgresql://me:hunter2@db:port/x", "not a database URL"),
        ("sqlite://", "plain file"),
        ("sqlite:///:memory:", "survive"),
        ("sqlite:///x.db?token=hunter2", "plain file"),
    ],
)
def test_a_url_we_cannot_use_is_explained_without_its_secrets(bad, said):
    with pytest.raises(StoreError, match=said) as caught:
        open_store(bad)
    assert "hunter2" not in str(caught.value)


def test_a_missing_folder_is_named(tmp_path):
    with pytest.raises(StoreError, match=r"folder .*gone' does not exist"):
        open_store(f"sqlite:///{tmp_path}/gone/x.db")


def test_a_missing_file_is_not_made_when_only_looking(tmp_path):
    with pytest.raises(StoreError, match="no such file"):
        open_store(f"sqlite:///{tmp_path}/x.db", create=False)
    assert not list(tmp_path.iterdir())


def test_a_folder_is_no_database(tmp_path):
    with pytest.raises(StoreError, match="is not a file"):
        open_store(f"sqlite:///{tmp_path}")


def test_a_file_of_another_kind_is_left_as_it_is(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_text("dear diary, this is long enough to be a header" * 100)
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="no SQLite database"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_damaged_header_is_no_database(tmp_path):
    path = tmp_path / "x.db"
    path.write_bytes(b"SQLite format 3\x00" + b"\xff" * 5000)
    with pytest.raises(StoreError):
        open_store(f"sqlite:///{path}")


def test_a_strangers_database_is_left_as_it_is(tmp_path):
    path = tmp_path / "x.db"
    with sqlite3.connect(path) as connection:
        connection.execute("CREATE TABLE songs (title TEXT)")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(SchemaError, match="songs"):
        open_store(f"sqlite:///{path}")
    assert path.read_bytes() == before


def test_a_newer_schema_is_refused(url, tmp_path):
    open_store(url).close()
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute("UPDATE em_alembic_version SET version_num = '0099'")
    connection.close()
    with pytest.raises(SchemaError, match=r"schema 0099.* newer version"):
        open_store(url)


def test_another_programs_table_of_our_name_is_refused(url, tmp_path):
    open_store(url).close()
    with sqlite3.connect(tmp_path / "studies.db") as connection:
        connection.execute(
            "UPDATE em_meta SET value = 'other' WHERE key = 'application'"
        )
    connection.close()
    with pytest.raises(SchemaError, match="not one of evomerge"):
        open_store(url)


def test_an_empty_file_becomes_a_database(tmp_path):
    path = tmp_path / "x.db"
    path.touch()
    assert not open_store(f"sqlite:///{path}").studies()


def test_the_file_is_safe_against_power_loss_and_other_readers(url, tmp_path):
    store = open_store(url)
    with store._database.writing() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
        }
    assert pragmas == {
        "journal_mode": "wal",
        "synchronous": 2,
        "foreign_keys": 1,
        "busy_timeout": 30000,
    }


def test_readers_do_not_wait_for_a_writer(url):
    store = open_store(url)
    store.create_study("s", {}, {}, 1)
    with store._database.writing():
        reader = open_store(url)
        assert [study.name for study in reader.studies()] == ["s"]


def test_a_failed_call_leaves_nothing_behind(url):
    store = open_store(url)

    def fail():
        with store._database.writing() as connection:
            connection.execute(metadata.tables["em_meta"].delete())
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    store.close()
    assert not open_store(url).studies()


def test_a_read_only_file_is_explained(tmp_path):
    """Root may write anything, so the attempt is made by an ordinary user."""
    code = """if True:
        import os, sys
        from evomerge.errors import StoreError
        from evomerge.store.sql import open_store
        import evomerge.store.databases.sqlite
        if os.geteuid() == 0:
            os.setuid(65534)
        try:
            open_store(sys.argv[1]).create_study("t", {}, {}, 1)
        except StoreError as error:
            print(error)
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "x.db"
        open_store(f"sqlite:///{path}").close()
        path.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        Path(folder).chmod(0o555)
        done = subprocess.run(
            [sys.executable, "-c", code, f"sqlite:///{path}"],
            capture_output=True,
            text=True,
            check=True,
        )
        Path(folder).chmod(0o755)
    assert "read-only" in done.stdout
    assert re.search(r"x\.db", done.stdout)


def test_a_full_disk_is_explained_and_loses_nothing(url):
    store = open_store(url)
    store.create_study("s", {}, {}, 1)
    with store._database.writing() as connection:
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(StoreError, match="no space is left"):
        store.create_study("big", {"x": "y" * 100_000}, {}, 1)
    assert [study.name for study in store.studies()] == ["s"]


def test_damaged_outcomes_are_an_error_not_an_answer(url):
    from evomerge.core.scoring_protocol import Outcome

    store = open_store(url)
    study = store.create_study("s", {}, {}, 1)
    lease = store.lease(study.id, this_process(), 60)
    trial = store.add_generation(lease, 0, candidates(0, 1), {}, None)[0]
    recipe = trial.candidate.recipe.digest
    store.add_outcomes(recipe, "p", [Outcome("i", {"acc": 1.0})])
    with store._database.writing() as connection:
        blocks = metadata.tables["em_outcome_block"]
        connection.execute(blocks.update().values(body=b"\x80\x04K\x01."))
    with pytest.raises(StoreError, match="cannot be read"):
        store.outcomes(recipe, "p")


def test_every_table_and_constraint_has_a_name_of_ours(url):
    open_store(url)
    for name, table in metadata.tables.items():
        assert name.startswith("em_")
        assert all(constraint.name for constraint in table.constraints)


def test_no_call_of_the_hot_path_walks_a_table(url):
    """Cost per call must not grow with the study, so every lookup is by an index."""
    store = open_store(url)
    study = store.create_study("s", CONFIG, {}, 1)
    lease = store.lease(study.id, this_process(), 60)
    store.record_tasks(lease, [task()])
    statements = set()

    def note(_connection, _cursor, statement, parameters, *_):
        if isinstance(parameters, tuple):
            statements.add((statement, parameters))

    sa.event.listen(sa.Engine, "before_cursor_execute", note)
    block = search_block(0)
    for number in (0, 1):
        store.add_generation(lease, number, candidates(number, 2), {}, None)
    store.extend_generation(lease, 1, candidates(1, 1, 2))
    store.start_attempt(lease, 2, "w")
    store.record(lease, 2, 1, Report({block: answers(block)}))
    store.end_attempt(lease, 2, 1, scored())
    store.reuse(lease, 3, {"t/acc": 1.0})
    store.trial(study.id, 2)
    store.trials(study.id, 1)
    store.outcomes(store.trial(study.id, 2).candidate.recipe.digest, "p")
    store.usage(study.id)
    store.renew(lease, 1)
    store.recover(lease)
    sa.event.remove(sa.Engine, "before_cursor_execute", note)
    lookups = [pair for pair in statements if not pair[0].startswith(("BEGIN", "INS"))]
    assert len(lookups) > 10
    with store._database.reading() as connection:
        for statement, parameters in lookups:
            plan = connection.exec_driver_sql(
                f"EXPLAIN QUERY PLAN {statement}", parameters
            )
            steps = [row.detail for row in plan]
            walks = [s for s in steps if s.startswith("SCAN em_")]
            assert not walks, f"{statement}: {steps}"


def test_a_database_opened_twice_keeps_its_log_when_other_processes_leave(
    url: str, tmp_path: Path
) -> None:
    store = open_store(url)
    store.create_study("one", CONFIG, {}, 1)
    open_store(url).close()  # in the same process
    code = "import sys; from evomerge.store.sql import open_store as o; o(sys.argv[1])"
    subprocess.run([sys.executable, "-c", f"{code}.close()", url], check=True)
    # The last process to leave deletes the log; this one has not left.
    assert (tmp_path / "studies.db-wal").exists()
    assert store.study("one").name == "one"
    store.close()
