"""The parts of attempts: who was handed which blocks, from when to when."""

from __future__ import annotations

from collections.abc import Sequence

import sqlalchemy as sa

from evomerge.store.tables import rows
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import part
from evomerge.store.trials import check_running
from evomerge.store.values import AttemptEnd, Lease, PartBegun, PartEnded

_BEGIN = sa.insert(part).values(began=NOW)
_END = (
    sa.update(part)
    .where(
        part.c.study_id == sa.bindparam("of_study"),
        part.c.trial == sa.bindparam("of_trial"),
        part.c.attempt == sa.bindparam("of_attempt"),
        part.c.part == sa.bindparam("of_part"),
    )
    .values(ended=NOW)
)


def move(
    connection: sa.Connection,
    lease: Lease,
    attempt: tuple[int, int],
    ended: PartEnded | None,
    begun: PartBegun | None,
) -> None:
    """Record that a part of a running attempt ended, that another began, or both."""
    number, which = attempt
    check_running(connection, lease, number, which)
    if ended is not None:
        key = {
            "of_study": lease.study_id,
            "of_trial": number,
            "of_attempt": which,
            "of_part": ended.part,
        }
        cause = None if ended.cause is None else ended.cause.value
        connection.execute(_END, {**key, "end": ended.end.value, "cause": cause})
    if begun is not None:
        key = {"study_id": lease.study_id, "trial": number, "attempt": which}
        row = {
            "part": begun.part,
            "worker": begun.worker,
            "blocks": rows.blocks_text(begun.blocks),
        }
        connection.execute(_BEGIN, {**key, **row})


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
