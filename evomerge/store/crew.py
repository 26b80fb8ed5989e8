"""Who works for a study now, and who is to, for those who look from elsewhere.

A worker that somebody drains is ``draining`` until its coordinator has let it go, and
``drained`` from then on: its row says that there is to be one fewer on its node.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import sqlalchemy as sa

from evomerge.core.work import Wishes
from evomerge.store.leases import check_lease
from evomerge.store.studies import is_of_job
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import mapping
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import job, study, worker
from evomerge.store.values import CrewMember, Lease

GONE, DRAINING, DRAINED = "lost", "draining", "drained"

_REMOVE = sa.delete(worker).where(worker.c.id == sa.bindparam("of_id"))
_COME = sa.insert(worker).values(since=NOW, seen=NOW)
_CHANGE = sa.update(worker).where(worker.c.id == sa.bindparam("of_id"))
_MOVE = _CHANGE.values(since=NOW)
_SEEN = (
    sa.update(worker)
    .where(worker.c.study_id == sa.bindparam("of_study"))
    .where(worker.c.state.not_in((GONE, DRAINED)))
    .values(seen=NOW)
)


Values = dict[str, Any]


def record(connection: sa.Connection, lease: Lease, crew: Iterable[CrewMember]) -> None:
    """Put a study's workers in the place of those that were there.

    Of those that are gone, the ones with GPUs are kept: their time counts. Drained ones
    are until the study is finished.
    """
    check_lease(connection, lease)
    is_ours = worker.c.study_id == lease.study_id
    # Locked: somebody may drain one meanwhile.
    known = sa.select(worker).where(is_ours).with_for_update()
    before = {row.id: row for row in connection.execute(known)}
    _put(connection, lease, crew, before)
    finished = sa.select(study.c.finished).where(study.c.id == lease.study_id)
    is_over = bool(before) and connection.scalar(finished) is not None
    for row in before.values():
        if row.state == DRAINING and not is_over:
            _move(connection, row.id, DRAINED)
        elif row.state != GONE and (is_over or row.state != DRAINED):
            leave(connection, row)


def _put(
    connection: sa.Connection,
    lease: Lease,
    crew: Iterable[CrewMember],
    before: dict[str, rows.Row],
) -> None:
    """Record those that are there, and take them out of those that were."""
    new, moved, changed = list[Values](), list[Values](), list[Values]()
    for member in crew:
        values = _row(lease, member)
        was = before.pop(values["id"], None)
        if was is None:
            new.append(values)
            continue
        if was.state in (DRAINING, DRAINED):
            values["state"] = DRAINING
        if was.state != values["state"]:
            moved.append({"of_id": was.id, **values})
        elif any(getattr(was, name) != value for name, value in values.items()):
            changed.append({"of_id": was.id, **values})
    # Of a thousand, hundreds may have moved: a statement for each kind, not for each.
    if new:
        connection.execute(_REMOVE, [{"of_id": values["id"]} for values in new])
    for statement, found in ((_COME, new), (_MOVE, moved), (_CHANGE, changed)):
        if found:
            connection.execute(statement, found)
    connection.execute(_SEEN, {"of_study": lease.study_id})


def leave(connection: sa.Connection, row: rows.Row) -> None:
    """Let a worker be gone; one with GPUs is kept, for its time counts."""
    if mapping("A worker's resources", row.resources).get("gpus"):
        _move(connection, row.id, GONE)
    else:
        connection.execute(sa.delete(worker).where(worker.c.id == row.id))


def wishes(connection: sa.Connection, study_id: int) -> Wishes:
    """Return what is wanted of a study's workers."""
    wanted = (
        sa.select(job.c.place)
        .join(study, is_of_job())
        .where(study.c.id == study_id)
        .order_by(sa.func.length(job.c.study).desc())
        .limit(1)
    )
    text = connection.scalar(wanted)
    place = {} if text is None else mapping("A job's place", text)
    drained = sa.select(worker.c.id, worker.c.node_id).where(
        worker.c.study_id == study_id, worker.c.state.in_((DRAINING, DRAINED))
    )
    return Wishes(
        place.get("workers"),
        {
            # As its pool calls it; see ``_row``.
            row.id if row.node_id else row.id.removesuffix(f"-{study_id}"): row.node_id
            for row in connection.execute(drained)
        },
    )


def _move(connection: sa.Connection, key: str, state: str) -> None:
    values = {"state": state, "since": NOW, "seen": NOW}
    connection.execute(sa.update(worker).where(worker.c.id == key).values(values))


def _row(lease: Lease, member: CrewMember) -> Values:
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
