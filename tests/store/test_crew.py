"""Who works for a study now, in the table that others look at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from support.jobs import submission

from evomerge.core.work import Wishes
from evomerge.store.base import Store
from evomerge.store.databases.database import Database
from evomerge.store.owner import this_process
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.workers import Workers
from evomerge.store.sql import open_store
from evomerge.store.values import CrewMember

FACTS = {"host": "box", "ip": "10.0.0.1", "versions": {"torch": "2.13.0"}}
ON_GPU = {**FACTS, "node_id": "n1", "gpus": 0.5}


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/s.db")
    yield opened
    opened.close()


def rows(tmp_path: Path) -> dict[str, Any]:
    engine = sa.create_engine(f"sqlite:///{tmp_path}/s.db")
    with engine.connect() as connection:
        found = connection.execute(sa.text("select * from em_worker")).mappings()
        rows = {row["id"]: dict(row) for row in found}
    engine.dispose()
    return rows


def test_workers_come_change_and_go_and_those_with_gpus_stay_known(
    store: Store, tmp_path: Path
) -> None:
    study = store.create_study("s", {}, {}, 1).id
    lease = store.lease(study, this_process(), 60)
    here, far = CrewMember("local", False, FACTS), CrewMember("w0-ab", False, ON_GPU)
    store.record_crew(lease, [here, far])
    first = rows(tmp_path)
    assert {key: row["state"] for key, row in first.items()} == {
        f"local-{study}": "ready",
        "w0-ab": "ready",
    }
    assert first["w0-ab"]["resources"] == '{"gpus":0.5}'
    store.record_crew(lease, [here, CrewMember("w0-ab", True, ON_GPU)])
    second = rows(tmp_path)
    assert second["w0-ab"]["state"] == "busy"
    assert second[f"local-{study}"]["since"] == first[f"local-{study}"]["since"]
    store.record_crew(lease, ())
    last = rows(tmp_path)
    assert {key: row["state"] for key, row in last.items()} == {"w0-ab": "lost"}
    store.record_crew(lease, ())
    assert rows(tmp_path) == last


def test_who_is_drained_stays_so_until_the_study_is_finished(
    store: Store, tmp_path: Path
) -> None:
    study = store.create_study("s", {}, {}, 1).id
    lease = store.lease(study, this_process(), 60)
    workers = Workers(Database(f"sqlite:///{tmp_path}/s.db", create=False))
    crew = [CrewMember("local", True, FACTS), CrewMember("w0-ab", False, ON_GPU)]
    store.record_crew(lease, crew)
    for name in (f"local-{study}", "w0-ab"):
        assert workers.drain(name).state == "draining"
    wanted = Wishes(None, {"local": "", "w0-ab": "n1"})
    assert store.wishes(study) == wanted
    store.record_crew(lease, crew)
    assert {row.state for row in workers.all()} == {"draining"}
    for crew in ([CrewMember("w1-ab", True, ON_GPU)], []):
        store.record_crew(lease, crew)
        states = {row.id: row.state for row in workers.all()}
        assert states[f"local-{study}"] == states["w0-ab"] == "drained"
        assert store.wishes(study) == wanted
    store.set_finished(lease, "trial budget used")
    store.record_crew(lease, ())
    assert {row.id: row.state for row in workers.all()} == {
        "w0-ab": "lost",  # its GPU-hours count
        "w1-ab": "lost",
    }
    assert store.wishes(study) == Wishes()


def test_drained_workers_are_gone_with_their_study(
    store: Store, tmp_path: Path
) -> None:
    study = store.create_study("s", {}, {}, 1).id
    lease = store.lease(study, this_process(), 60)
    workers = Workers(Database(f"sqlite:///{tmp_path}/s.db", create=False))
    crew = [CrewMember("local", True, FACTS), CrewMember("w0-ab", False, ON_GPU)]
    store.record_crew(lease, crew)
    for name in (f"local-{study}", "w0-ab"):
        workers.drain(name)
    store.record_crew(lease, ())
    assert {row.state for row in workers.all()} == {"drained"}
    store.delete(lease)
    assert [(row.id, row.state, row.study) for row in workers.all()] == [
        ("w0-ab", "lost", None)  # its GPU-hours may be another stage's
    ]


def test_how_many_are_wanted_is_what_the_job_says_of_a_study_or_its_stages(
    store: Store, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/s.db"
    accounts, queue = open_accounts(url), open_queue(url)
    accounts.add_user("ann")
    names = ("a", "a.one", "a.one.x", "ab")
    queue.submit("ann", submission("a", place={"workers": 3}))
    keys = {name: store.create_study(name, {}, {}, 1).id for name in names[1:]}
    assert store.wishes(keys["a.one"]).workers == 3
    queue.scale("ann", "a", 5)
    wanted = {name: store.wishes(key).workers for name, key in keys.items()}
    assert wanted == {"a.one": 5, "a.one.x": 5, "ab": None}
    accounts.close()
    queue.close()


def test_a_thousand_workers_are_recorded_in_as_many_statements_as_two(
    store: Store, tmp_path: Path
) -> None:
    study = store.create_study("s", {}, {}, 1).id
    lease = store.lease(study, this_process(), 60)
    counts = []
    for n_workers in (2, 1000):
        names = [f"w{i}-{n_workers}" for i in range(n_workers)]
        ran: list[str] = []

        def note(*told: Any, ran: list[str] = ran) -> None:
            ran.append(told[2])

        sa.event.listen(sa.Engine, "before_cursor_execute", note)
        try:
            for is_busy in (False, True):
                crew = [CrewMember(name, is_busy, ON_GPU) for name in names]
                store.record_crew(lease, crew)
        finally:
            sa.event.remove(sa.Engine, "before_cursor_execute", note)
        counts.append(len(ran))
        here = {key: row for key, row in rows(tmp_path).items() if key in names}
        assert {row["state"] for row in here.values()} == {"busy"}
    few, many = counts
    assert many <= few + 2 * 2 + 1  # the two that were there are gone
