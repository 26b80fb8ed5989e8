"""Queues and accounts in a fresh database of either kind, with two users.

Making tables takes longer than most tests here: an SQLite database is the copy of one
that has them, and the PostgreSQL database is one that is emptied.
"""

import shutil
from collections.abc import Iterator
from itertools import count
from pathlib import Path

import pytest
from support.databases import KINDS, MakeUrl
from support.postgres import make_database
from support.searched import by_hand

from evomerge.store.queue.accounts import Accounts, open_accounts
from evomerge.store.queue.job_queue import JobQueue, open_queue
from evomerge.store.tables.schema import metadata

KEPT = ("em_meta",)
"""Says whose database it is."""
TABLES = [t.name for t in reversed(metadata.sorted_tables) if t.name not in KEPT]


@pytest.fixture(scope="session")
def emptied_postgres_url(postgres_admin: str, postgres_template: str) -> str:
    return make_database(postgres_admin, postgres_template)


@pytest.fixture(params=KINDS)
def new_url(
    request: pytest.FixtureRequest, tmp_path: Path, sqlite_template: Path
) -> MakeUrl:
    if request.param == "sqlite":
        numbers = count()

        def copied() -> str:
            file = tmp_path / f"jobs-{next(numbers)}.db"
            shutil.copy(sqlite_template, file)
            return f"sqlite:///{file}"

        return copied
    url: str = request.getfixturevalue("emptied_postgres_url")

    def emptied() -> str:
        by_hand(url, *(f"DELETE FROM {table}" for table in TABLES))
        return url

    return emptied


@pytest.fixture
def accounts(any_url: str) -> Iterator[Accounts]:
    opened = open_accounts(any_url)
    opened.add_user("ann")
    opened.add_user("bob")
    yield opened
    opened.close()


@pytest.fixture
def queue(any_url: str, accounts: Accounts) -> Iterator[JobQueue]:
    opened = open_queue(any_url)
    yield opened
    opened.close()
