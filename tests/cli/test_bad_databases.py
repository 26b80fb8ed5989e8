"""Databases that cannot be used: a clear text and code, no secret, nothing lost."""

import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlsplit

import psycopg
import pytest
import sqlalchemy as sa
from support.postgres import Server, beside, make_database, running
from support.searched import by_hand, contents
from support.study_files import simulated_study, write_study

from evomerge.errors import SchemaError, StoreError, StoreUnreachableError
from evomerge.store.databases import sqlite
from evomerge.store.sql import open_store
from evomerge.testing.store_samples import ELSEWHERE

SECRETS = ("hunter2", "hun@ter:2/x%41y", "hun?ter#2 é")
READING = (("studies",), ("status", "small"), ("db", "check"), ("resume", "small"))
MAIN = "from evomerge.cli.app import main; main()"


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    """A server of one's own, to be shut down and to ask for passwords."""
    with running() as server:
        with psycopg.connect(server.url("postgres"), autocommit=True) as connection:
            for n, secret in enumerate(SECRETS):
                made = f"CREATE ROLE locked{n} LOGIN PASSWORD '{secret}'"
                connection.execute(made.encode())
                by_hba(connection, f"local all locked{n} scram-sha-256")
            connection.execute("CREATE ROLE guest LOGIN")
            by_hba(connection, "local all stranger reject")
            connection.execute("CREATE ROLE stranger LOGIN")
        yield server


def by_hba(connection: psycopg.Connection, line: str) -> None:
    """Put a line before those that say who is let in."""
    found = connection.execute("SHOW hba_file").fetchone()
    assert found is not None
    file = Path(found[0])
    file.write_text(f"{line}\n{file.read_text()}")
    connection.execute("SELECT pg_reload_conf()")


def as_user(url: str, user: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=f"{user}@").geturl()


@pytest.fixture
def assert_refused(call):
    """Open a database, and call commands on it: all must refuse it alike."""

    def assert_refused(
        url: str,
        *told: str,
        kind: type[StoreError] = StoreError,
        words=READING,
        secret: str = "hunter2",
    ) -> str:
        with pytest.raises(kind) as caught:
            open_store(url)
        is_away = isinstance(caught.value, StoreUnreachableError)
        texts = [str(caught.value)]
        for command in words:
            ended = call(*command, "--db", url)
            assert ended.code == (75 if is_away else 2), (command, ended)
            assert "Traceback" not in ended.err
            assert ended.out == ""
            texts.append(ended.err)
        for text in texts:
            assert secret not in text
            for word in told:
                assert word in text
        return texts[0]

    return assert_refused


# Not reached.


@pytest.mark.parametrize(
    ("url", "told"),
    [
        ("postgresql://me:hunter2@127.0.0.1:9/db", "refused"),
        ("postgresql://me:hunter2@no.such.host.invalid/db", "no.such.host.invalid"),
        ("postgresql://me:hunter2@/db?host=/no/such/folder", "/no/such/folder"),
    ],
    ids=["closed port", "no such host", "no such socket"],
)
def test_a_server_that_does_not_answer_is_told(
    assert_refused, url: str, told: str
) -> None:
    assert_refused(
        url,
        "does not answer; start the server, or check host and port",
        told,
        kind=StoreUnreachableError,
    )


def test_a_port_that_is_no_number_is_told(assert_refused) -> None:
    assert_refused("postgresql://me@/db?host=h&port=x", "non-integer port")


def test_a_server_that_stops_and_starts_is_the_same_store_again(
    server: Server, call
) -> None:
    url = server.database()
    store = open_store(url)
    store.create_study("s", {}, {}, 1)
    for end in (server.stop, server.kill):
        end()
        with pytest.raises(StoreUnreachableError, match="does not answer"):
            store.studies()
        with pytest.raises(StoreUnreachableError):
            store.create_study("t", {}, {}, 1)
        ended = call("studies", "--db", url)
        assert ended.code == 75
        assert "does not answer" in ended.err
        server.start()
        assert [study.name for study in store.studies()] == ["s"]
    store.create_study("t", {}, {}, 1)
    store.close()


# Not let in.


@pytest.mark.parametrize(
    "n",
    [
        1,
        *(
            pytest.param(n, marks=pytest.mark.slow)
            for n in range(len(SECRETS))
            if n != 1
        ),
    ],
)
def test_a_password_lets_in_and_a_wrong_one_does_not(
    server: Server, assert_refused, n: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.database()
    secret = quote(SECRETS[n], safe="")
    by_hand(url, "GRANT ALL ON SCHEMA public TO PUBLIC")
    open_store(as_user(url, f"locked{n}:{secret}")).close()
    monkeypatch.setenv("PGPASSWORD", SECRETS[n])
    open_store(as_user(url, f"locked{n}")).close()
    monkeypatch.delenv("PGPASSWORD")
    wrong = as_user(url, f"locked{n}:{secret}wrong")
    for part in (SECRETS[n], secret):
        assert_refused(wrong, "the password was refused", "PGPASSWORD", secret=part)
    assert_refused(as_user(url, f"locked{n}"), "it wants a password")


@pytest.mark.parametrize("secret", ["hun/ter", "hun@ter", "hun?ter", "hun#ter", "h:n"])
def test_a_password_that_was_not_escaped_is_not_shown_either(
    assert_refused, secret: str
) -> None:
    url = f"postgresql://me:{secret}@127.0.0.1:9/db"
    assert_refused(url, "me:***@127.0.0.1:9", secret=secret)
    assert "ter@127" not in assert_refused(url, secret="ter")


def test_a_user_that_there_is_not_is_told(server: Server, assert_refused) -> None:
    url = as_user(server.url("postgres"), "nobody-here")
    assert_refused(url, "there is no such user", "nobody-here")


def test_a_user_who_is_not_let_in_is_told(server: Server, assert_refused) -> None:
    url = as_user(server.url("postgres"), "stranger")
    assert_refused(url, "does not let this user or machine in")


@pytest.mark.parametrize("name", ["nowhere", "role"])
def test_a_database_that_there_is_not_is_told(
    postgres_admin, assert_refused, name
) -> None:
    url = beside(postgres_admin, name)
    assert_refused(url, "there is no such database", "createdb", name)


def test_a_user_without_rights_is_told_which_it_needs(
    server: Server, assert_refused
) -> None:
    url = server.database()
    told = "the user lacks rights; grant it CREATE and USAGE on the schema"
    with pytest.raises(StoreError, match=told):
        open_store(as_user(url, "guest"))  # cannot make the tables
    open_store(url).close()
    assert_refused(as_user(url, "guest"), told, "em_meta")


def test_without_its_driver_postgresql_says_what_to_install(here: Path) -> None:
    program = (
        "import sys\n"
        "class Blocker:\n"
        "    def find_spec(self, name, path=None, target=None):\n"
        "        if name.partition('.')[0] == 'psycopg':\n"
        "            raise ModuleNotFoundError('No psycopg', name=name)\n"
        "sys.meta_path.insert(0, Blocker())\n" + MAIN
    )
    words = ("studies", "--db", "postgresql://me:hunter2@h/db")
    done = subprocess.run(
        [sys.executable, "-c", program, *words], capture_output=True, text=True
    )
    assert done.returncode == 2
    assert "pip install 'evomerge[postgres]'" in done.stderr
    assert "hunter2" not in done.stderr


# Read-only, and full.


def test_a_read_only_server_is_told(
    postgres_admin: str, searched_template: str, call
) -> None:
    searched_url = make_database(postgres_admin, searched_template)
    url = f"{searched_url}&options=-c%20default_transaction_read_only%3Don"
    before = contents(searched_url)
    assert call("db", "check", "--db", url).code == 0
    ended = call("delete", "small", "--yes", "--db", url)
    assert ended.code == 2
    assert "it is read-only (a standby server?)" in ended.err
    assert contents(searched_url) == before


def test_a_read_only_server_without_our_tables_is_told(
    empty_postgres_url: str, assert_refused
) -> None:
    url = f"{empty_postgres_url}&options=-c%20default_transaction_read_only%3Don"
    with pytest.raises(StoreError, match="it is read-only"):
        open_store(url)


def test_a_read_only_file_is_told(searched_file: Path) -> None:
    """Root may write anything, so the command is called by an ordinary user."""
    program = (
        # Read while it may be: the libraries may lie where only root looks.
        "import os, evomerge.cli.app, evomerge.cli.databases, evomerge.cli.tables\n"
        "import evomerge.api, evomerge.store.sql, evomerge.store.databases.sqlite\n"
        "import evomerge.service.local\n"
        f"if os.geteuid() == 0: os.setuid(65534)\n{MAIN}"
    )
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "x.db"
        file.write_bytes(searched_file.read_bytes())
        file.chmod(stat.S_IRUSR | stat.S_IRGRP | stat.S_IROTH)
        Path(folder).chmod(0o555)
        words = ("delete", "small", "--yes", "--db", f"sqlite:///{file}")
        done = subprocess.run(
            [sys.executable, "-c", program, *words],
            capture_output=True,
            text=True,
            cwd="/",
        )
        Path(folder).chmod(0o755)
    assert done.returncode == 2
    assert "it is read-only; make the file and its folder writable" in done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_disk_under_a_file_is_told_and_nothing_is_lost(
    call, here: Path, searched_file: Path, models: Path
) -> None:
    (here / "evomerge.db").write_bytes(searched_file.read_bytes())
    url = f"sqlite:///{here}/evomerge.db"
    before = contents(url)
    write_study(here / "more.yaml", simulated_study(models, name="more"))

    def limit(driver: object, _: object) -> None:
        pages = driver.execute("PRAGMA page_count").fetchone()[0]  # type: ignore[attr-defined]
        driver.execute(f"PRAGMA max_page_count = {pages}")  # type: ignore[attr-defined]

    sa.event.listen(sa.Engine, "connect", limit)
    try:
        ended = call("run", "more.yaml", "--in-process", "--db", url)
    finally:
        sa.event.remove(sa.Engine, "connect", limit)
    assert ended.code == 2
    assert "no space is left; free some and run the command again" in ended.err
    assert contents(url) == before
    assert call("run", "more.yaml", "--in-process", "--db", url).code == 0
    assert call("db", "check", "--db", url).code == 0


def test_a_full_disk_under_a_server_is_told_and_nothing_is_lost(
    call, here: Path, postgres_url: str, models: Path
) -> None:
    by_hand(
        postgres_url,
        "CREATE FUNCTION fill() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN "
        "RAISE EXCEPTION 'could not extend file' USING ERRCODE = 'disk_full'; "
        "END $$",
        "CREATE TRIGGER fill BEFORE INSERT ON em_outcome_block "
        "FOR EACH ROW EXECUTE FUNCTION fill()",
    )
    write_study(here / "more.yaml", simulated_study(models, name="more"))
    ended = call("run", "more.yaml", "--in-process", "--db", postgres_url)
    assert ended.code == 2
    assert "no space is left; free some and run the command again" in ended.err
    by_hand(postgres_url, "DROP TRIGGER fill ON em_outcome_block")
    assert call("resume", "more", "--in-process", "--db", postgres_url).code == 0
    assert call("db", "check", "--db", postgres_url).code == 0


# On a network file system.


def test_a_file_on_a_network_file_system_is_refused(
    assert_refused, here: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "mountinfo"
    table.write_text(f"36 1 0:31 / {here} rw - nfs4 server:/x rw\n")
    monkeypatch.setattr(sqlite, "MOUNTS", table)
    assert_refused(
        f"sqlite:///{here}/x.db",
        "is on a network file system (nfs4)",
        "postgresql://user@host/database",
    )
    assert list(here.iterdir()) == []


# Not ours, or newer.


def test_a_newer_schema_is_refused(searched_url: str, assert_refused) -> None:
    by_hand(searched_url, "UPDATE em_alembic_version SET version_num = '0099'")
    words = (*READING, ("db", "upgrade"), ("delete", "small", "--yes"))
    assert_refused(
        searched_url, "schema 0099", "newer version", kind=SchemaError, words=words
    )


@pytest.mark.parametrize(
    "spoil",
    [
        "UPDATE em_meta SET value = 'other' WHERE key = 'application'",
        "DELETE FROM em_meta",
        "ALTER TABLE em_meta RENAME TO em_other",
    ],
)
def test_tables_of_our_names_without_our_mark_are_refused(
    searched_url: str, assert_refused, spoil: str
) -> None:
    by_hand(searched_url, spoil)
    assert_refused(searched_url, "is not one of evomerge's", kind=SchemaError)


def test_tables_of_others_beside_ours_are_left_alone_on_a_server(
    empty_postgres_url: str, call
) -> None:
    by_hand(empty_postgres_url, "CREATE TABLE songs (title text)")
    ended = call("studies", "--db", empty_postgres_url)
    assert ended.code == 2
    assert "holds no study yet" in ended.err
    open_store(empty_postgres_url).close()
    assert call("studies", "--db", empty_postgres_url).code == 0
    by_hand(empty_postgres_url, "INSERT INTO songs VALUES ('still here')")


@pytest.mark.slow
def test_optuna_may_keep_its_studies_in_the_same_database(
    searched_url: str, call
) -> None:
    from optuna import create_study, load_study, logging
    from optuna.storages import RDBStorage

    logging.set_verbosity(logging.ERROR)
    driver = searched_url.replace("postgresql:", "postgresql+psycopg:")
    before = contents(searched_url)
    storage = RDBStorage(driver)
    create_study(storage=storage, study_name="theirs").optimize(
        lambda trial: trial.suggest_float("x", 0, 1), n_trials=3
    )
    assert contents(searched_url) == before
    assert call("db", "check", "--db", searched_url).code == 0
    assert call("delete", "small", "--yes", "--db", searched_url).code == 0
    study = load_study(storage=storage, study_name="theirs")
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)
    assert len(study.trials) == 4
    storage.remove_session()
    storage.engine.dispose()


def test_a_server_that_optuna_was_first_on_takes_us_too(
    empty_postgres_url: str, call
) -> None:
    from optuna.storages import RDBStorage

    driver = empty_postgres_url.replace("postgresql:", "postgresql+psycopg:")
    storage = RDBStorage(driver)
    open_store(empty_postgres_url).close()
    assert call("db", "check", "--db", empty_postgres_url).code == 0
    assert storage.get_all_studies() == []
    storage.remove_session()
    storage.engine.dispose()


def test_a_file_of_optunas_is_left_to_optuna(here: Path, assert_refused) -> None:
    from optuna.storages import RDBStorage

    storage = RDBStorage(f"sqlite:///{here}/theirs.db")
    storage.remove_session()
    storage.engine.dispose()
    assert_refused(f"sqlite:///{here}/theirs.db", "is not one of evomerge's")


# Two at once.


@pytest.mark.slow
def test_a_second_coordinator_is_refused_and_told_who_is_first(
    call, here: Path, any_url: str, models: Path
) -> None:
    write_study(here / "mine.yaml", simulated_study(models, name="mine"))
    store = open_store(any_url)
    run = ("run", "mine.yaml", "--in-process", "--db", any_url)
    assert call(*run).code == 0
    lease = store.lease(store.study("mine").id, ELSEWHERE, 60)
    before = contents(any_url, "mine")
    for words in (run, ("resume", "mine", "--trials", "9", "--in-process", *run[-2:])):
        ended = call(*words)
        assert ended.code == 75
        assert "'mine' is being run by process 1 on another-host" in ended.err
    assert contents(any_url, "mine") == before
    store.release(lease)
    assert call(*run[:2], *run[2:]).code == 0
    store.close()


# Rows edited by hand.


@pytest.mark.slow
def test_a_resume_over_an_edited_row_names_study_and_generation(
    call, here: Path, any_url: str, models: Path
) -> None:
    strategy = {"kind": "cma", "generation_size": 4}
    study = simulated_study(models, name="mine", strategy=strategy)
    write_study(here / "mine.yaml", study)
    assert call("run", "mine.yaml", "--in-process", "--db", any_url).code == 0
    by_hand(
        any_url,
        "UPDATE em_trial SET point = replace(point, '\":', '\":1') "
        "WHERE number = (SELECT max(number) FROM em_trial)",
    )
    more = ("resume", "mine", "--trials", "12", "--in-process", "--db", any_url)
    ended = call(*more)
    assert ended.code == 3
    assert "Study 'mine', generation 2, candidate 1: axis" in ended.err
    assert "restore the database from a copy" in ended.err
    assert "Traceback" not in ended.err
