"""Databases of every schema version are brought to the present one, and go on."""

import hashlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from support.golden_databases import make, restore, study_of, unpacked
from support.searched import by_hand, connected, contents, search_small

from evomerge.core.trial import Record
from evomerge.errors import ReplayError, SchemaError, StoreError
from evomerge.store.databases import database
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.store.tables import schema
from evomerge.store.tables.schema import VERSION_TABLE, VERSIONS, metadata
from evomerge.store.values import AttemptEnd

GOLDEN = Path(__file__).parents[1] / "golden" / "databases"
STEPS = Path(schema.__file__).parents[1] / "migrations" / "versions"
# A step that was released stays as it is: databases were made by it.
DIGESTS = {
    "0001_first.py": "52fe601f21e05cf50fb40834b7a10d469020980bd6d3a959f781ece9e8db04a3",
    "0002_attempts.py": (
        "09c20e57424285c0f6f7c3c99c2106e8a9eb05dc1a4e7821caf5772f4a19c21c"
    ),
}
# Their studies cannot go on: evomerge has an NSGA-II of its own now.
NSGA_OF_OPTUNA = (
    "version-1-sqlite.db.gz",
    "version-2-postgres.sql.gz",
    "version-2-sqlite.db.gz",
)
FILES = sorted(file.name for file in GOLDEN.glob("version-*.gz"))

Place = Callable[[str], str]


@pytest.fixture
def placed(tmp_path: Path, request: pytest.FixtureRequest) -> Place:
    """Unpack a golden database to a place of its own; return its URL."""

    def placed(name: str) -> str:
        content = unpacked(GOLDEN / name)
        if "sqlite" in name:
            (tmp_path / "old.db").write_bytes(content)
            return f"sqlite:///{tmp_path}/old.db"
        url: str = request.getfixturevalue("empty_postgres_url")
        restore(url, content.decode())
        return url

    return placed


def version_of(name: str) -> str:
    return f"{int(name.split('-')[1]):04}"


def test_a_golden_database_of_every_version_is_kept() -> None:
    if os.environ.get("EVOMERGE_REWRITE_GOLDEN"):
        make(GOLDEN)
    wanted = {f"version-{int(version)}-sqlite-tpe.db.gz" for version in VERSIONS}
    # The first schema knew SQLite alone.
    wanted |= {
        f"version-{int(version)}-postgres-tpe.sql.gz" for version in VERSIONS[1:]
    }
    assert {file.name for file in GOLDEN.iterdir()} == wanted | set(NSGA_OF_OPTUNA)


def test_no_golden_database_is_written_again(tmp_path: Path) -> None:
    for name in FILES:
        (tmp_path / name).write_text("what users have")
    assert make(tmp_path) == []
    assert {file.read_text() for file in tmp_path.iterdir()} == {"what users have"}


@pytest.mark.parametrize("name", [f for f in FILES if version_of(f) != VERSIONS[-1]])
def test_an_older_database_is_refused_with_the_command_to_run(
    placed: Place, name: str
) -> None:
    url = placed(name)
    for create in (True, False):
        with pytest.raises(SchemaError, match="run `evomerge db upgrade --db URL` on"):
            open_store(url, create=create)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "postgres" in name else ())
        for name in FILES
        if name not in NSGA_OF_OPTUNA
    ],
)
def test_a_golden_database_is_upgraded_and_its_study_goes_on_to_the_same_end(
    placed: Place, name: str, tmp_path: Path
) -> None:
    url, small = placed(name), study_of(name)
    done = database.upgrade(url)
    assert (done.before, done.after) == (version_of(name), VERSIONS[-1])
    store = open_store(url)
    assert list(store.check()) == []
    study = store.study("small")
    assert study.finished is None
    states = {trial.state.value for trial in store.history(study.id)}
    assert {"running", "scored", "failed"} <= states
    store.close()
    assert search_small(url, tmp_path / "cache", small) == "trial budget used"
    calm = f"sqlite:///{tmp_path}/calm.db"
    search_small(calm, tmp_path / "calm", small)
    assert contents(url) == contents(calm)
    store = open_store(url)
    assert list(store.check()) == []
    store.close()


def ended(url: str) -> list[Record]:
    store = open_store(url)
    found = [t for t in store.history(store.study("small").id) if t.state.is_final]
    store.close()
    return found


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=pytest.mark.slow if "postgres" in name else ())
        for name in NSGA_OF_OPTUNA
    ],
)
def test_a_study_of_optunas_nsga2_is_upgraded_and_then_stops_with_all_it_has(
    placed: Place, name: str, tmp_path: Path
) -> None:
    url = placed(name)
    database.upgrade(url)
    before = ended(url)
    with pytest.raises(ReplayError, match="Study 'small', generation 1, candidate 0"):
        search_small(url, tmp_path / "cache", study_of(name))
    assert ended(url) == before != []
    store = open_store(url)
    assert list(store.check()) == []
    store.close()


@pytest.mark.parametrize("name", [f for f in FILES if version_of(f) == VERSIONS[-1]])
def test_the_present_golden_databases_hold_attempts_of_every_kind(
    placed: Place, name: str
) -> None:
    store = open_store(placed(name))
    ends = {attempt.end for attempt in store.attempts(store.study("small").id)}
    store.close()
    assert ends == {
        *(AttemptEnd.SCORED, AttemptEnd.FAILED, AttemptEnd.FAULT),
        *(AttemptEnd.INTERRUPTED, None),
    }


def test_an_upgrade_keeps_a_copy_of_the_file_as_it_was(
    placed: Place, tmp_path: Path
) -> None:
    url = placed("version-1-sqlite.db.gz")
    before = rows_of(tmp_path / "old.db")
    copy = database.upgrade(url).copy
    assert copy == tmp_path / "old.db.before-0006"
    assert rows_of(copy) == before
    copy.replace(tmp_path / "again.db")
    (tmp_path / "old.db.before-0006").write_text("somebody's")
    second = database.upgrade(f"sqlite:///{tmp_path}/again.db").copy
    assert second == tmp_path / "again.db.before-0006"
    (tmp_path / "old.db").write_bytes(unpacked(GOLDEN / "version-1-sqlite.db.gz"))
    assert database.upgrade(url).copy == tmp_path / "old.db.before-0006-2"
    assert (tmp_path / "old.db.before-0006").read_text() == "somebody's"


def rows_of(file: Path) -> list[str]:
    connection = sqlite3.connect(file)
    lines = list(connection.iterdump())
    connection.close()
    return lines


def test_what_the_first_schema_knew_of_attempts_is_kept(placed: Place) -> None:
    url = placed("version-1-sqlite.db.gz")
    database.upgrade(url)
    store = open_store(url)
    study = store.study("small")
    for trial in store.history(study.id):
        attempts = store.attempts(study.id, trial.number)
        assert len(attempts) == trial.attempt
        assert trial.faults == 0
        if trial.state.is_final:
            assert attempts[-1].end == trial.state.value
            assert attempts[-1].worker == trial.worker
        elif attempts:
            assert attempts[-1].end is None
    store.close()


def test_a_present_database_is_left_as_it_is(searched_url: str) -> None:
    before = contents(searched_url)
    done = database.upgrade(searched_url)
    assert (done.before, done.after, done.copy) == (VERSIONS[-1], VERSIONS[-1], None)
    assert contents(searched_url) == before


def test_an_upgrade_waits_for_nobody_who_runs_the_old_version(
    placed: Place, tmp_path: Path
) -> None:
    url = placed("version-1-sqlite.db.gz")
    by_hand(url, "UPDATE em_study SET lease_until = 4e9")
    with pytest.raises(StoreError, match="small may be running"):
        database.upgrade(url)
    with pytest.raises(SchemaError, match="schema 0001"):
        open_store(url)


def test_an_upgrade_that_fails_leaves_the_database_as_it_was(
    placed: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = placed("version-1-sqlite.db.gz")
    before = rows_of(tmp_path / "old.db")
    real = database.migrate

    def fail(connection: object, version: str | None) -> None:
        real(connection, version)  # type: ignore[arg-type]
        raise KeyboardInterrupt

    monkeypatch.setattr(database, "migrate", fail)
    with pytest.raises(KeyboardInterrupt):
        database.upgrade(url)
    assert rows_of(tmp_path / "old.db") == before


@pytest.mark.parametrize("created", [True, False])
def test_nothing_is_upgraded_where_nothing_is_ours(empty_url: str, created) -> None:
    if created and empty_url.startswith("sqlite"):
        Path(empty_url.removeprefix("sqlite:///")).touch()
    with pytest.raises(StoreError, match=r"no such file|no tables of evomerge"):
        database.upgrade(empty_url)


def test_a_newer_database_is_not_upgraded(searched_url: str) -> None:
    by_hand(searched_url, f"UPDATE {VERSION_TABLE} SET version_num = '0099'")
    with pytest.raises(SchemaError, match="newer version of evomerge"):
        database.upgrade(searched_url)


def steps() -> ScriptDirectory:
    config = Config()
    config.set_main_option("script_location", str(STEPS.parent))
    return ScriptDirectory.from_config(config)


def test_the_versions_are_the_steps_there_are() -> None:
    found = [step.revision for step in steps().walk_revisions()]
    assert tuple(reversed(found)) == VERSIONS


def differences(url: str) -> list[object]:
    with connected(url) as connection:
        context = MigrationContext.configure(
            connection,
            opts={
                "version_table": VERSION_TABLE,
                "compare_type": True,
                "include_name": lambda name, kind, _: (
                    kind != "table" or (name or "").startswith("em_")
                ),
            },
        )
        return list(compare_metadata(context, metadata))


def test_the_steps_lead_to_the_tables_that_are_used(empty_url: str) -> None:
    open_store(empty_url).close()
    assert differences(empty_url) == []
    by_hand(empty_url, "ALTER TABLE em_trial ADD COLUMN odd INTEGER")
    assert len(differences(empty_url)) == 1


def test_the_steps_lead_from_the_first_version_to_the_tables_that_are_used(
    empty_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    with connected(empty_url) as connection:
        monkeypatch.setattr(schema, "VERSIONS", VERSIONS[:1])
        schema.migrate(connection, None)
        monkeypatch.undo()
    assert differences(empty_url) != []
    assert database.upgrade(empty_url).before == "0001"
    assert differences(empty_url) == []


def test_the_upgraded_first_database_has_the_tables_that_are_used(
    placed: Place,
) -> None:
    url = placed("version-1-sqlite.db.gz")
    database.upgrade(url)
    assert differences(url) == []


@pytest.mark.parametrize("name", sorted(DIGESTS))
def test_a_released_step_is_never_changed(name: str) -> None:
    found = hashlib.sha256((STEPS / name).read_bytes()).hexdigest()
    assert found == DIGESTS[name]


def test_a_lease_held_through_an_upgrade_of_nothing_stays(searched_url: str) -> None:
    store = open_store(searched_url)
    before = store.study("small")
    lease = store.lease(before.id, this_process(), 60)
    database.upgrade(searched_url)
    store.renew(lease, 1.0)
    assert store.study("small").spent_s == before.spent_s + 1.0
    store.close()
