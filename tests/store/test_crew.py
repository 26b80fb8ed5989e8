"""Who works for a study now, in the table that others look at."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa

from evomerge.store.base import Store
from evomerge.store.owner import this_process
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
