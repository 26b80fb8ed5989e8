"""Who works for a study now, for those who look at the database from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from evomerge.store.leases import check_lease
from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import worker
from evomerge.store.values import CrewMember, Lease


def record(connection: sa.Connection, lease: Lease, crew: Iterable[CrewMember]) -> None:
    """Put a study's workers in the place of those that were there."""
    check_lease(connection, lease)
    is_ours = worker.c.study_id == lease.study_id
    known = sa.select(worker.c.id, worker.c.state, worker.c.since).where(is_ours)
    since = {(row.id, row.state): row.since for row in connection.execute(known)}
    connection.execute(sa.delete(worker).where(is_ours))
    for member in crew:
        row = _row(lease, member)
        kept = since.get((row["id"], row["state"]))
        values = {**row, "since": NOW if kept is None else kept, "seen": NOW}
        connection.execute(sa.insert(worker).values(values))


def _row(lease: Lease, member: CrewMember) -> dict[str, Any]:
    facts = member.facts
    has = {name: facts[name] for name in ("gpus", "engine") if name in facts}
    found = facts.get("versions", {})
    return {
        # A name is a worker's as long as one process runs the study.
        "id": f"{lease.study_id}.{lease.epoch}.{member.name}",
        "node_id": str(facts.get("node_id", "")),
        "host": str(facts.get("host", "")),
        "ip": str(facts.get("ip", "")),
        "versions": rows.to_text("A worker's versions", dict(found)),
        "resources": rows.to_text("A worker's resources", has),
        "state": "busy" if member.is_busy else "ready",
        "study_id": lease.study_id,
    }
