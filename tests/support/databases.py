"""Fixtures: fresh databases of both kinds; import them into a ``conftest``."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from evomerge.store.sql import open_store
from support.postgres import GIVEN, drop_databases, make_database, running

MakeUrl = Callable[[], str]

KINDS = ("sqlite", "postgres")


@pytest.fixture(scope="session")
def postgres_admin() -> Iterator[str]:
    """Give the URL of a server's first database: one server for all tests."""
    given = os.environ.get(GIVEN)
    if given is not None:
        yield given
        drop_databases(given)
        return
    with running() as server:
        yield server.url("postgres")


@pytest.fixture(scope="session")
def postgres_template(postgres_admin: str) -> str:
    """Name a database with our tables, of which others are copied."""
    url = make_database(postgres_admin)
    open_store(url).close()
    return urlsplit(url).path.lstrip("/")


@pytest.fixture(scope="session")
def sqlite_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give a database with our tables, of which others are copied."""
    file = tmp_path_factory.mktemp("template") / "studies.db"
    open_store(f"sqlite:///{file}").close()
    return file


@pytest.fixture
def postgres_url(postgres_admin: str, postgres_template: str) -> str:
    """Give a fresh database with our tables."""
    return make_database(postgres_admin, postgres_template)


@pytest.fixture
def empty_postgres_url(postgres_admin: str) -> str:
    """Give a fresh database without any table."""
    return make_database(postgres_admin)


@pytest.fixture(params=KINDS)
def new_url(request: pytest.FixtureRequest, tmp_path: Path) -> MakeUrl:
    """Give a maker of fresh databases with our tables, of either kind in turn."""
    if request.param == "sqlite":
        made: Path = request.getfixturevalue("sqlite_template")
        files = (tmp_path / f"studies-{number}.db" for number in count())
        return lambda: f"sqlite:///{shutil.copy(made, next(files))}"
    admin: str = request.getfixturevalue("postgres_admin")
    template: str = request.getfixturevalue("postgres_template")
    return lambda: make_database(admin, template)


@pytest.fixture
def any_url(new_url: MakeUrl) -> str:
    """Give a fresh database, of either kind in turn."""
    return new_url()


@pytest.fixture(params=KINDS)
def empty_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Name a database without tables, of either kind in turn."""
    if request.param == "sqlite":
        return f"sqlite:///{tmp_path}/empty.db"
    url: str = request.getfixturevalue("empty_postgres_url")
    return url
