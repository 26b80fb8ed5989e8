"""Databases in which the small study was searched, and what must be equal in them.

Fixtures stand at the end; import them into a ``conftest``.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from evomerge.core.study import Budget, StrategySettings
from evomerge.core.trial import TrialState
from evomerge.search.coordinator import Coordinator
from evomerge.store.databases.database import backend
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy
from support.databases import KINDS
from support.postgres import make_database

EVENTFUL = SmallStudy(
    StrategySettings("random", 4),
    Budget(trials=8),
    options={"fail_if": 0.25, "break_if": 0.5, "fault_times": 1},
)
"""Some candidates fail, and some attempts are spoilt by the machine."""


def search_small(
    url: str, cache_dir: Path, small: SmallStudy | None = None, name: str = "small"
) -> str:
    """Search the small study, or go on with it; return what ended it."""
    chosen = small or SmallStudy()
    plan = replace(chosen.plan(), name=name)
    store = open_store(url)
    try:
        if name not in [study.name for study in store.studies()]:
            budget = {"trials": chosen.budget.trials}
            store.create_study(name, chosen.config, {"budget": budget}, plan.seed)
        pool = chosen.pool(cache_dir)
        return Coordinator(plan, store, pool, this_process()).run()
    finally:
        store.close()


def contents(url: str, name: str = "small") -> Mapping[str, object]:
    """Return what of a study must not depend on what happened on the way."""
    store = open_store(url)
    try:
        study = store.study(name)
        trials = store.trials(study.id)
        outcomes = {
            (t.number, task.manifest.task): dict(
                store.outcomes(t.candidate.recipe.digest, task.protocol.digest)
            )
            for t in trials
            if t.state is TrialState.SCORED
            for task in store.tasks(study.id) or ()
        }
        generations = store.generations(study.id)
        return {
            "candidates": [t.candidate for t in trials],
            "ends": [(t.state, t.scores) for t in trials],
            "memory": [
                (g.number, g.size, g.memory, g.note, g.sample) for g in generations
            ],
            "outcomes": outcomes,
            "items": store.usage(study.id).items,
            "finished": study.finished,
        }
    finally:
        store.close()


@contextmanager
def connected(url: str) -> Iterator[Any]:
    """Give a connection in a writing transaction, as SQLAlchemy has them."""
    place = backend(url)
    try:
        with place.writer.begin() as connection:
            yield connection
    finally:
        place.reader.dispose()
        place.writer.dispose()


def by_hand(url: str, *statements: str) -> None:
    """Change rows as somebody with a database's own program would."""
    with connected(url) as connection:
        for statement in statements:
            connection.exec_driver_sql(statement)


def ask(url: str, query: str) -> Any:
    """Return the first value of a query's first row."""
    with connected(url) as connection:
        return connection.exec_driver_sql(query).scalar()


@pytest.fixture(scope="session")
def searched_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Give an SQLite file in which the eventful study was searched; copy it."""
    folder = tmp_path_factory.mktemp("searched")
    search_small(f"sqlite:///{folder / 'searched.db'}", folder, EVENTFUL)
    return folder / "searched.db"


@pytest.fixture(scope="session")
def searched_template(
    postgres_admin: str, tmp_path_factory: pytest.TempPathFactory
) -> str:
    """Name a PostgreSQL database in which it was searched; copy it."""
    url = make_database(postgres_admin)
    search_small(url, tmp_path_factory.mktemp("searched"), EVENTFUL)
    return urlsplit(url).path.lstrip("/")


@pytest.fixture(params=KINDS)
def searched_url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """Give a database of its own in which it was searched, of either kind in turn."""
    if request.param == "sqlite":
        source: Path = request.getfixturevalue("searched_file")
        shutil.copy(source, tmp_path / "searched.db")
        return f"sqlite:///{tmp_path}/searched.db"
    admin: str = request.getfixturevalue("postgres_admin")
    template: str = request.getfixturevalue("searched_template")
    return make_database(admin, template)
