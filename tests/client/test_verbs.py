"""The verbs over a database and over HTTP: one contract for both."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.services import READ_WRITE, serving
from support.study_files import simulated_study, write_models
from support.verbs_contract import House, VerbsContract

from evomerge import api
from evomerge.api.running import Where
from evomerge.client import connect
from evomerge.client.verbs import Verbs
from evomerge.service.desk import Desk
from evomerge.service.records import Records
from evomerge.service.supervisor import Site
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.values import Caller, Job, Role, Scope


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


class _OverDatabase(VerbsContract):
    @pytest.fixture
    def url(self) -> str:
        raise NotImplementedError

    @pytest.fixture
    def house(self, url: str, tmp_path: Path) -> Iterator[House]:
        accounts = open_accounts(url)
        users = {name: accounts.add_user(name) for name in ("ann", "bob")}
        users["root"] = accounts.add_user("root", Role.ADMIN)
        accounts.close()
        opened: list[Records] = []
        site = Site(url, tmp_path / "spool")

        def ask(who: str) -> Verbs:
            opened.append(Records(url))
            scopes = frozenset(Scope if who == "root" else READ_WRITE)
            return Desk(opened[-1], site, Caller(users[who], scopes))

        queue = open_queue(url)
        yield House(ask, queue, url, site.spool)
        queue.close()
        for records in opened:
            records.close()

    @pytest.fixture
    def searched(self, house: House, ann: Verbs, models: Path, tmp_path: Path) -> Job:
        return searched(house, ann, models, tmp_path)


def searched(house: House, ann: Verbs, models: Path, folder: Path) -> Job:
    file = folder / "study.yaml"
    file.write_text(json.dumps(simulated_study(models, name="found")))
    job, _ = ann.submit({"study.yaml": file.read_bytes()})
    where = Where(1, None, True, folder / "cache")
    prepared = api.prepare(file, db=house.url, where=where)
    api.search(prepared, lambda _: None)
    return job


class TestDeskOnSQLite(_OverDatabase):
    @pytest.fixture
    def url(self, sqlite_template: Path, tmp_path: Path) -> str:
        return f"sqlite:///{shutil.copy(sqlite_template, tmp_path)}"


class TestDeskOnPostgreSQL(_OverDatabase):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


class TestRemoteService(VerbsContract):
    @pytest.fixture
    def house(self, postgres_url: str, tmp_path: Path) -> Iterator[House]:
        with serving(postgres_url, tmp_path / "spool") as service:

            def ask(who: str) -> Verbs:
                return connect(service.url, token=service.tokens[who])

            queue = open_queue(postgres_url)
            yield House(ask, queue, postgres_url, service.spool)
            queue.close()

    @pytest.fixture
    def searched(self, house: House, ann: Verbs, models: Path, tmp_path: Path) -> Job:
        return searched(house, ann, models, tmp_path)
