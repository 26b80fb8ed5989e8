"""The parts of attempts: who was handed which blocks, from when to when."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.prepared import Prepared
from evomerge.store.tables.schema import part
from evomerge.store.values import AttemptEnd, Lease, Report

_KEY = ("study_id", "trial", "attempt", "part")
_BEGIN = Prepared(
    sa.insert(part).values(
        began=NOW,
        **{name: sa.bindparam(name) for name in (*_KEY, "worker", "blocks")},
    )
)
_END = Prepared(
    sa.update(part)
    .where(*(part.c[name] == sa.bindparam(f"of_{name}") for name in _KEY))
    .values(end=sa.bindparam("end"), cause=sa.bindparam("cause"), ended=NOW)
)


def move(
    connection: sa.Connection, lease: Lease, attempt: tuple[int, int], report: Report
) -> None:
    """Record which parts of a running attempt ended, and which began."""
    place = (lease.study_id, *attempt)
    for ended in report.ended:
        key = zip(_KEY, (*place, ended.part), strict=True)
        how = {"end": ended.end.value, "cause": ended.cause and ended.cause.value}
        _END(connection, {**{f"of_{name}": value for name, value in key}, **how})
    if (begun := report.begun) is not None:
        key = zip(_KEY, (*place, begun.part), strict=True)
        blocks = rows.blocks_text(begun.blocks)
        _BEGIN(connection, {**dict(key), "worker": begun.worker, "blocks": blocks})


def interrupt(connection: sa.Connection, lease: Lease) -> None:
    """End every part of a study that is open: its coordinator died or stopped."""
    connection.execute(
        sa.update(part)
        .where(part.c.study_id == lease.study_id, part.c.ended.is_(None))
        .values(ended=NOW, end=AttemptEnd.INTERRUPTED.value)
    )


def of_trial(
    connection: sa.Connection, study_id: int, number: int | None
) -> Sequence[rows.Row]:
    """Return rows of parts, oldest first."""
    query = (
        sa.select(part)
        .where(part.c.study_id == study_id)
        .order_by(part.c.trial, part.c.attempt, part.c.part)
    )
    if number is not None:
        query = query.where(part.c.trial == number)
    return connection.execute(query).all()
