"""Who works for a study now, for those who look at the database from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from evomerge.store.leases import check_lease
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import mapping
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import worker
from evomerge.store.values import CrewMember, Lease

_GONE = "lost"


def record(connection: sa.Connection, lease: Lease, crew: Iterable[CrewMember]) -> None:
    """Put a study's workers in the place of those that were there.

    Of those that are gone, the ones with GPUs are kept: their time counts.
    """
    check_lease(connection, lease)
    is_ours = worker.c.study_id == lease.study_id
    known = sa.select(worker.c.id, worker.c.state, worker.c.since).where(is_ours)
    before = {row.id: row for row in connection.execute(known)}
    for member in crew:
        values = {**_row(lease, member), "seen": NOW}
        was = before.pop(values["id"], None)
        is_new = was is None or was.state != values["state"]
        connection.execute(sa.delete(worker).where(worker.c.id == values["id"]))
        values["since"] = NOW if was is None or is_new else was.since
        connection.execute(sa.insert(worker).values(values))
    for row in before.values():
        if row.state != _GONE:
            _leave(connection, row.id)


def _leave(connection: sa.Connection, key: str) -> None:
    is_it = worker.c.id == key
    has = connection.execute(sa.select(worker.c.resources).where(is_it)).scalar_one()
    if mapping("A worker's resources", has).get("gpus"):
        gone = {"state": _GONE, "since": NOW, "seen": NOW}
        connection.execute(sa.update(worker).where(is_it).values(gone))
    else:
        connection.execute(sa.delete(worker).where(is_it))


def _row(lease: Lease, member: CrewMember) -> dict[str, Any]:
    facts = member.facts
    has = {name: facts[name] for name in ("gpus", "devices", "engine") if name in facts}
    node = str(facts.get("node_id", ""))
    return {
        # Names are a cluster's own; one in the coordinator's process is called alike.
        "id": member.name if node else f"{member.name}-{lease.study_id}",
        "node_id": node,
        "host": str(facts.get("host", "")),
        "ip": str(facts.get("ip", "")),
        "versions": rows.to_text(
            "A worker's versions", dict(facts.get("versions", {}))
        ),
        "resources": rows.to_text("A worker's resources", has),
        "state": "busy" if member.is_busy else "ready",
        "study_id": lease.study_id,
    }
