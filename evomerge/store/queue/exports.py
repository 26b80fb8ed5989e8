"""Exports: model folders that are asked for, claimed by supervisors, and written.

An export is a job of its own kind: it has a claim as jobs have, is started again when
whoever wrote it is lost, and has failed for good after a few starts.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from evomerge.errors import ClaimLostError, JobNotFoundError, StudyNotFoundError
from evomerge.store.databases.database import Database
from evomerge.store.queue import jobs
from evomerge.store.queue.claims import CLAIM_S, progress
from evomerge.store.queue.values import ExportState, Job
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import decoder
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import export

MAX_STARTS = 3


@dataclass(frozen=True, slots=True)
class Order:
    """An export that was asked for.

    Attributes:
        number: Among its job's, from 1.
        trial: Which; None for the best.
        is_scored: Whether it is scored on held-out items for its card.
        why: What it failed by, None if it did not.
        size_bytes: Of the archive; 0 before it is finished.
        fingerprint: Of the model's content, once it is finished.
        starts: How often it was claimed.
    """

    job: Job
    number: int
    trial: int | None
    is_scored: bool
    state: ExportState
    why: str | None
    size_bytes: int
    fingerprint: str | None
    starts: int


@dataclass(frozen=True, slots=True)
class Written:
    """What came of an export: an archive, or a reason why not."""

    size_bytes: int = 0
    fingerprint: str | None = None
    why: str | None = None


class Exports:
    """Exports in an SQL database: one method, one transaction.

    One thread's at a time, as the database is.
    """

    def __init__(self, database: Database) -> None:
        self._database = database

    def close(self) -> None:
        """Close the database; idempotent."""
        self._database.close()

    def ask(self, user: str, name: str, trial: int | None, is_scored: bool) -> Order:
        """Queue an export; the same of the same state of a study is the same.

        Raises:
            JobNotFoundError: There is no such job.
            StudyNotFoundError: It has recorded nothing yet.
        """
        with self._database.writing() as connection:
            job = jobs.find(connection, user, name, locked=True)
            come = progress(connection, job.study)
            if come == 0:
                raise StudyNotFoundError(f"Job {name!r} has scored nothing yet.")
            last = sa.func.max(export.c.number)
            there = connection.scalar(
                sa.select(last).where(
                    export.c.job_id == job.id,
                    export.c.trial.is_(None) if trial is None else _is_trial(trial),
                    export.c.is_scored == is_scored,
                    export.c.state != ExportState.FAILED.value,
                    sa.true() if trial is not None else export.c.progress == come,
                )
            )
            if there is not None:
                return _order(connection, job, there)
            of_job = sa.select(sa.func.coalesce(last, 0)).where(
                export.c.job_id == job.id
            )
            number = int(connection.scalar(of_job) or 0) + 1
            values = {
                "job_id": job.id,
                "number": number,
                "trial": trial,
                "is_scored": is_scored,
                "progress": come,
                "state": ExportState.QUEUED.value,
                "size_bytes": 0,
                "starts": 0,
            }
            connection.execute(
                sa.insert(export).values(created=NOW, changed=NOW), values
            )
            told = {"export": number, "trial": trial}
            jobs.record_event(connection, job.id, "export_wanted", told)
            return _order(connection, job, number)

    def get(self, user: str, name: str, number: int) -> Order:
        """Return an export of a job.

        Raises:
            JobNotFoundError: There is none of this number.
        """
        with self._database.reading() as connection:
            return _order(connection, jobs.find(connection, user, name), number)

    def of_job(self, user: str, name: str) -> Sequence[Order]:
        """Return the exports of a job, oldest first.

        Raises:
            JobNotFoundError: There is no such job.
        """
        with self._database.reading() as connection:
            job = jobs.find(connection, user, name)
            query = sa.select(export).where(export.c.job_id == job.id)
            found = connection.execute(query.order_by(export.c.number))
            return [order_of(row, job) for row in found]

    def claim(self, by: str) -> Order | None:
        """Claim the export that waits longest; None if none does.

        One whose claim ran out is claimed again, or has failed after a few starts.

        Raises:
            SchemaError: The database is not of this evomerge's schema any more.
        """
        self._database.check()
        with self._database.writing() as connection:
            self._give_up(connection)
            is_due = sa.or_(
                export.c.state == ExportState.QUEUED.value, export.c.claim_until < NOW
            )
            row = connection.execute(
                sa.select(export.c.job_id, export.c.number)
                .where(is_due, export.c.state.in_(_OPEN))
                .order_by(export.c.created, export.c.job_id, export.c.number)
                .limit(1)
                .with_for_update(skip_locked=True)
            ).first()
            if row is None:
                return None
            connection.execute(
                sa.update(export)
                .where(export.c.job_id == row.job_id, export.c.number == row.number)
                .values(
                    state=ExportState.RUNNING.value,
                    claim_by=by,
                    claim_until=NOW + CLAIM_S,
                    starts=export.c.starts + 1,
                    changed=NOW,
                )
            )
            job = jobs.by_id(connection, row.job_id)
            return _order(connection, job, row.number)

    def beat(self, order: Order, by: str) -> None:
        """Prolong a claim.

        Raises:
            ClaimLostError: Another has the export, or it is gone.
        """
        self._change(order, by, claim_until=NOW + CLAIM_S)

    def release(self, order: Order, by: str) -> None:
        """Give an export back that could not be written to its end here.

        Raises:
            ClaimLostError: Another has it, or it is gone.
        """
        self._change(
            order,
            by,
            state=ExportState.QUEUED.value,
            starts=export.c.starts - 1,
            **_FREE,
        )

    def ended(self, order: Order, by: str, written: Written) -> None:
        """Record what came of an export.

        Raises:
            ClaimLostError: Another has it, or it is gone.
        """
        has_failed = written.why is not None
        state = ExportState.FAILED if has_failed else ExportState.FINISHED
        with self._database.writing() as connection:
            _change(
                connection,
                order,
                by,
                state=state.value,
                why=written.why,
                size_bytes=written.size_bytes,
                fingerprint=written.fingerprint,
                changed=NOW,
                **_FREE,
            )
            jobs.by_id(connection, order.job.id, locked=True)
            told = {"export": order.number, "state": state.value, "why": written.why}
            jobs.record_event(connection, order.job.id, "export_ended", told)

    def _change(self, order: Order, by: str, **values: object) -> None:
        with self._database.writing() as connection:
            _change(connection, order, by, **values)

    def _give_up(self, connection: sa.Connection) -> None:
        why = f"it was started {MAX_STARTS} times, and each time its process was lost"
        connection.execute(
            sa.update(export)
            .where(
                export.c.state == ExportState.RUNNING.value,
                export.c.claim_until < NOW,
                export.c.starts >= MAX_STARTS,
            )
            .values(state=ExportState.FAILED.value, why=why, changed=NOW, **_FREE)
        )


_OPEN = (ExportState.QUEUED.value, ExportState.RUNNING.value)
_FREE = {"claim_by": None, "claim_until": None}


def order_of(row: rows.Row, job: Job) -> Order:
    """Return an export of a job from its row."""
    return Order(job, **export_of(row))


@decoder("An export", export)
def export_of(row: rows.Row) -> dict[str, Any]:
    """Read a row of ``em_export``."""
    return {
        "number": row.number,
        "trial": row.trial,
        "is_scored": row.is_scored,
        "state": ExportState(row.state),
        "why": row.why,
        "size_bytes": row.size_bytes,
        "fingerprint": row.fingerprint,
        "starts": row.starts,
    }


def _order(connection: sa.Connection, job: Job, number: int) -> Order:
    row = connection.execute(
        sa.select(export).where(export.c.job_id == job.id, export.c.number == number)
    ).first()
    if row is None:
        raise JobNotFoundError(f"Job {job.name!r} has no export {number}.")
    return order_of(row, job)


def _is_trial(trial: int) -> sa.ColumnElement[bool]:
    return export.c.trial == trial


def _change(connection: sa.Connection, order: Order, by: str, **values: object) -> None:
    done = connection.execute(
        sa.update(export)
        .where(
            export.c.job_id == order.job.id,
            export.c.number == order.number,
            export.c.claim_by == by,
        )
        .values(**values)
    )
    if done.rowcount == 0:
        raise ClaimLostError(f"Export {order.number} of {order.job.address} is gone.")
