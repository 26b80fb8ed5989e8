"""GPU-hours that a user's studies have used, and what becomes of jobs beyond them.

What is used is the time of every part of every attempt, until now while it runs, times
the GPUs of its worker as it reported them; of a worker that is not known, none. Jobs of
a user whose hours are used are paused with that reason, their processes within a beat
of their supervisor. Coordinators begin nothing more once the hours are used, so what
is used beyond is the rest of what workers are at. When an operator has granted more,
whoever resumes a job goes on.
"""

from __future__ import annotations

from collections.abc import Mapping

import sqlalchemy as sa

from evomerge.core.work import GpuTime
from evomerge.store.queue.values import JobState
from evomerge.store.studies import is_of_job
from evomerge.store.tables.decoding import mapping
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import attempt, job, part, study, user, worker

_GOING = (JobState.QUEUED, JobState.WAITING, JobState.STARTING, JobState.RUNNING)


def used(connection: sa.Connection, owner: str) -> float:
    """Return the GPU-hours that a user's studies have used."""
    spans: dict[str, float] = {}
    for table, further in ((part, ()), (attempt, (~_has_parts(),))):
        seconds = sa.func.coalesce(table.c.ended, NOW) - table.c.began
        query = (
            sa.select(table.c.worker, sa.func.sum(seconds).label("seconds"))
            .join(study, study.c.id == table.c.study_id)
            .join(job, is_of_job())
            .join(user, user.c.id == job.c.user_id)
            .where(user.c.name == owner, table.c.worker.is_not(None), *further)
            .group_by(table.c.worker)
        )
        for row in connection.execute(query):
            spans[row.worker] = spans.get(row.worker, 0.0) + float(row.seconds or 0.0)
    gpus = _gpus(connection) if spans else {}
    return sum(max(0.0, s) * gpus.get(name, 0.0) for name, s in spans.items()) / 3600


def over(connection: sa.Connection, owner: str) -> str | None:
    """Say that a user's GPU-hours are used; None if some are left."""
    query = sa.select(user.c.max_gpu_hours).where(user.c.name == owner)
    most = connection.scalar(query)
    if most is None:
        return None
    hours = used(connection, owner)
    if hours < most:
        return None
    return (
        f"{owner}'s GPU-hours are used: {hours:.3g} of {most:g}; an operator can "
        "grant more"
    )


def left(connection: sa.Connection, study_id: int) -> GpuTime | None:
    """Return what a study's owner may still use; None if that is not limited."""
    query = (
        sa.select(user.c.name, user.c.max_gpu_hours)
        .join(job, job.c.user_id == user.c.id)
        .join(study, is_of_job())
        .where(study.c.id == study_id, user.c.max_gpu_hours.is_not(None))
    )
    owner = connection.execute(query.limit(1)).first()
    if owner is None:
        return None
    open_elsewhere = (
        sa.select(part.c.worker)
        .join(study, study.c.id == part.c.study_id)
        .join(job, is_of_job())
        .join(user, user.c.id == job.c.user_id)
        .where(user.c.name == owner.name, study.c.id != study_id)
        .where(part.c.ended.is_(None))
    )
    gpus = _gpus(connection)
    at_work = sum(gpus.get(name, 0.0) for name in connection.scalars(open_elsewhere))
    left_h = owner.max_gpu_hours - used(connection, owner.name)
    return GpuTime(left_h * 3600, at_work)


def beyond(connection: sa.Connection) -> Mapping[int, str]:
    """Return the keys of jobs that are to be paused, and why."""
    limited = sa.select(user.c.name).where(
        user.c.max_gpu_hours.is_not(None),
        sa.exists().where(job.c.user_id == user.c.id, job.c.state.in_(_GOING)),
    )
    found: dict[int, str] = {}
    for owner in connection.scalars(limited).all():
        if (why := over(connection, owner)) is not None:
            going = sa.select(job.c.id).join(user)
            mine = going.where(user.c.name == owner, job.c.state.in_(_GOING))
            found |= dict.fromkeys(connection.scalars(mine), why)
    return found


def _has_parts() -> sa.ColumnElement[bool]:
    return sa.exists().where(
        part.c.study_id == attempt.c.study_id,
        part.c.trial == attempt.c.trial,
        part.c.attempt == attempt.c.attempt,
    )


def _gpus(connection: sa.Connection) -> dict[str, float]:
    found = connection.execute(sa.select(worker.c.id, worker.c.resources))
    return {
        row.id: _number(mapping("A worker's resources", row.resources).get("gpus"))
        for row in found
    }


def _number(said: object) -> float:
    if isinstance(said, list):
        return float(len(said))
    return float(said) if isinstance(said, int | float) else 0.0
