"""Jobs as their owners see them: submitted, looked at, paused, cancelled, resumed.

Functions take a connection inside a transaction; ``JobQueue`` opens it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from evomerge.errors import (
    JobExistsError,
    JobNotFoundError,
    JobStateError,
    ServiceError,
    SpecError,
    UserError,
)
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.submission import (
    Submission,
    budget_problems,
    place_problems,
    priority_problems,
)
from evomerge.store.queue.values import Head, Job, JobEvent, JobState, Wanted
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import decoder, mapping, unpack
from evomerge.store.tables.dialects import NOW, insert_absent
from evomerge.store.tables.schema import bundle, export, job, job_event, study, user

_SELECT = sa.select(job, user.c.name.label("user")).join(user)
_S = JobState
# Where a job goes when its owner wants something else of it; refused where not named.
_STEPS: dict[Wanted, dict[JobState, JobState]] = {
    Wanted.PAUSE: {
        **dict.fromkeys((_S.QUEUED, _S.WAITING, _S.PAUSED), _S.PAUSED),
        **dict.fromkeys((_S.STARTING, _S.RUNNING, _S.PAUSING), _S.PAUSING),
    },
    Wanted.CANCEL: {
        **dict.fromkeys((_S.QUEUED, _S.WAITING, _S.PAUSED, _S.CANCELLED), _S.CANCELLED),
        _S.STARTING: _S.CANCELLING,
        _S.RUNNING: _S.CANCELLING,
        _S.PAUSING: _S.CANCELLING,
        _S.CANCELLING: _S.CANCELLING,
    },
    Wanted.RUN: {
        **{s: s for s in (_S.QUEUED, _S.STARTING, _S.RUNNING, _S.WAITING)},
        # Its process is being stopped; when it has, the job is queued.
        _S.PAUSING: _S.PAUSING,
        **dict.fromkeys((_S.PAUSED, _S.CANCELLED, _S.FAILED), _S.QUEUED),
    },
}
_MORE = (_S.FINISHED, Wanted.RUN)
_VERBS = {Wanted.RUN: "resumed", Wanted.PAUSE: "paused", Wanted.CANCEL: "cancelled"}


@decoder("A job", job)
def job_of(row: rows.Row) -> Job:
    """Read a row of ``em_job`` with its user's name."""
    return Job(
        id=row.id,
        user=row.user,
        name=row.name,
        study=row.study,
        bundle_digest=row.bundle_digest,
        state=JobState(row.state),
        wanted=Wanted(row.wanted),
        priority=row.priority,
        budget=mapping("A job's budget", row.budget),
        place=mapping("A job's place", row.place),
        claim_by=row.claim_by,
        due=None if row.not_before is None else rows.time_text(row.not_before),
        starts=row.starts,
        fruitless=row.fruitless,
        last_progress=row.last_progress,
        why=row.why,
        created=rows.time_text(row.created),
        changed=rows.time_text(row.changed),
    )


@decoder("A job's event", job_event)
def event_of(row: rows.Row) -> JobEvent:
    """Read a row of ``em_job_event``."""
    data = mapping("A job's event", row.data)
    return JobEvent(row.number, rows.time_text(row.at), row.kind, data)


def every(connection: sa.Connection) -> Sequence[rows.Row]:
    """Return the rows of all jobs, oldest first; ``job_of`` reads one."""
    return connection.execute(_SELECT.order_by(job.c.id)).all()


def submit(connection: sa.Connection, owner: str, new: Submission) -> tuple[Job, bool]:
    """Queue a job, if there is none of this name; return it, and whether it is new."""
    # One submission of a user's at a time: whoever comes second finds the first.
    of_user = sa.select(user.c.id).where(user.c.name == owner)
    user_id = connection.scalar(of_user.with_for_update(key_share=True))
    if user_id is None:
        raise UserError(f"There is no user {owner!r}.")
    there = connection.execute(
        _SELECT.where(job.c.user_id == user_id, job.c.name == new.name)
    ).first()
    if there is not None:
        found = job_of(there)
        problems = new.differs_from(found, bundle_of(connection, found.bundle_digest))
        if problems:
            raise JobExistsError(
                f"A job named {new.name!r} is there already, and it is another one; "
                "choose another name.",
                problems,
            )
        return found, False
    if _is_another_ones(connection, new.study):
        raise JobExistsError(
            f"Study {new.study!r} is in this database and no job's; give yours another "
            "name."
        )
    digest = new.bundle.digest
    row = {
        "digest": digest,
        "body": rows.pack("A bundle", new.bundle.to_json()),
        "size_bytes": new.bundle.size_bytes,
    }
    insert_absent(connection, bundle, row)
    values = {
        "user_id": user_id,
        "name": new.name,
        "study": new.study,
        "bundle_digest": digest,
        "state": JobState.QUEUED.value,
        "wanted": Wanted.RUN.value,
        "priority": new.priority,
        "budget": "{}",
        "place": rows.to_text("A job's place", dict(new.place)),
        "slots": new.slots,
        **dict.fromkeys(("claim_epoch", "starts", "fruitless", "last_progress"), 0),
    }
    try:
        connection.execute(sa.insert(job).values(created=NOW, changed=NOW), values)
    except IntegrityError as error:
        raise JobExistsError(
            f"Study {new.study!r} belongs to another job in this database; give yours "
            "another name."
        ) from error
    queued = find(connection, owner, new.name)
    record_event(connection, queued.id, "submitted", {"bundle": digest})
    return queued, True


def _is_another_ones(connection: sa.Connection, name: str) -> bool:
    """Tell whether a study, or stages of it, were recorded without a job."""
    is_stage = study.c.name.startswith(f"{name}.", autoescape=True)
    found = connection.scalar(
        sa.select(study.c.id).where((study.c.name == name) | is_stage).limit(1)
    )
    jobs = sa.select(job.c.id).where(job.c.study == name)
    return found is not None and connection.scalar(jobs) is None


def find(
    connection: sa.Connection, owner: str, name: str, *, locked: bool = False
) -> Job:
    """Return a user's job of this name."""
    query = _SELECT.where(user.c.name == owner, job.c.name == name)
    row = connection.execute(query.with_for_update(of=job) if locked else query).first()
    if row is None:
        raise JobNotFoundError(f"{owner} has no job named {name!r}.")
    return job_of(row)


def by_id(connection: sa.Connection, job_id: int, *, locked: bool = False) -> Job:
    """Return the job of a database key."""
    query = _SELECT.where(job.c.id == job_id)
    row = connection.execute(query.with_for_update(of=job) if locked else query).first()
    if row is None:
        raise JobNotFoundError(f"There is no job with id {job_id}.")
    return job_of(row)


def select(
    connection: sa.Connection,
    owner: str | None,
    states: Sequence[JobState],
    after: tuple[str, str] | None,
    limit: int,
) -> list[Job]:
    """Return jobs, oldest first, of one user or all."""
    query = _SELECT.order_by(job.c.id).limit(limit)
    if owner is not None:
        query = query.where(user.c.name == owner)
    if states:
        query = query.where(job.c.state.in_([state.value for state in states]))
    if after is not None:
        query = query.where(job.c.id > find(connection, *after).id)
    return [job_of(row) for row in connection.execute(query)]


def want(connection: sa.Connection, owner: str, name: str, wanted: Wanted) -> Job:
    """Record what the owner wants of a job, and take the step where none runs it."""
    found = find(connection, owner, name, locked=True)
    state = _STEPS[wanted].get(found.state)
    if state is None:
        raise JobStateError(
            f"Job {name!r} is {found.state}; it cannot be {_VERBS[wanted]}."
            + (" Give it a larger budget." if (found.state, wanted) == _MORE else "")
        )
    if (state, wanted) == (found.state, found.wanted):
        return found
    _step(connection, found, state, wanted)
    return by_id(connection, found.id)


def resume(
    connection: sa.Connection,
    owner: str,
    name: str,
    budget: Mapping[str, float],
    priority: int | None,
) -> Job:
    """Want a job to run, maybe with more budget: then also one that is finished."""
    found = find(connection, owner, name, locked=True)
    problems = budget_problems(found.budget, budget)
    if priority is not None:
        problems += priority_problems(priority)
    if problems:
        raise SpecError(problems)
    larger = {k: v for k, v in budget.items() if v != found.budget.get(k)}
    if larger or priority not in (None, found.priority):
        text = rows.to_text("A job's budget", {**found.budget, **larger})
        new = {
            "budget": text,
            "priority": found.priority if priority is None else priority,
        }
        connection.execute(sa.update(job).where(job.c.id == found.id).values(new))
    if found.state is JobState.FINISHED and larger:
        _step(connection, found, JobState.QUEUED, Wanted.RUN)
        return by_id(connection, found.id)
    return want(connection, owner, name, Wanted.RUN)


def scale(connection: sa.Connection, owner: str, name: str, workers: int) -> Job:
    """Want another number of workers for a job that has not ended."""
    if problems := place_problems({"workers": workers}):
        raise SpecError(problems)
    found = find(connection, owner, name, locked=True)
    if found.state.is_final:
        raise JobStateError(
            f"Job {name!r} is {found.state}; only one that has not ended can be scaled."
        )
    before = found.place.get("workers")
    if before != workers:
        place = rows.to_text("A job's place", {**found.place, "workers": workers})
        values = {"place": place, "slots": workers}
        connection.execute(sa.update(job).where(job.c.id == found.id).values(values))
        told = {"from": before, "to": workers}
        record_event(connection, found.id, "scaled", told)
    return by_id(connection, found.id)


def delete(connection: sa.Connection, owner: str, name: str) -> None:
    """Forget a job that has ended, with what only it has."""
    found = find(connection, owner, name, locked=True)
    if not found.state.is_final:
        raise JobStateError(f"Job {name!r} is {found.state}; it cannot be deleted.")
    for table in (job_event, export):
        connection.execute(sa.delete(table).where(table.c.job_id == found.id))
    connection.execute(sa.delete(job).where(job.c.id == found.id))
    is_used = sa.exists().where(job.c.bundle_digest == bundle.c.digest)
    connection.execute(
        sa.delete(bundle).where(bundle.c.digest == found.bundle_digest, ~is_used)
    )


def heads(connection: sa.Connection, ids: Collection[int]) -> dict[int, Head]:
    """Return how far jobs are; those that are gone are left out."""
    last = sa.func.coalesce(sa.func.max(job_event.c.number), 0).label("last")
    query = (
        sa.select(job.c.id, job.c.state, last)
        .join(job_event, job_event.c.job_id == job.c.id, isouter=True)
        .where(job.c.id.in_(ids))
        .group_by(job.c.id, job.c.state)
    )
    return {
        row.id: Head(row.last, JobState(row.state)) for row in connection.execute(query)
    }


def record_event(
    connection: sa.Connection, job_id: int, kind: str, data: Mapping[str, Any]
) -> None:
    """Add an event; the caller's transaction has the job's row locked or new."""
    last = sa.select(sa.func.coalesce(sa.func.max(job_event.c.number), 0) + 1)
    number = last.where(job_event.c.job_id == job_id).scalar_subquery()
    text = rows.to_text("A job's event", dict(data))
    values = {"job_id": job_id, "kind": kind, "data": text}
    connection.execute(sa.insert(job_event).values(at=NOW, number=number, **values))


def events(
    connection: sa.Connection, job_id: int, after: int, limit: int
) -> list[JobEvent]:
    """Return a job's events after a number, in order."""
    query = (
        sa.select(job_event)
        .where(job_event.c.job_id == job_id, job_event.c.number > after)
        .order_by(job_event.c.number)
        .limit(limit)
    )
    return [event_of(row) for row in connection.execute(query)]


def is_recorded(connection: sa.Connection, name: str) -> bool:
    """Tell whether there is a study of this name."""
    return (
        connection.scalar(sa.select(study.c.id).where(study.c.name == name)) is not None
    )


def bundle_of(connection: sa.Connection, digest: str) -> Bundle:
    """Return the bundle of this digest."""
    query = sa.select(bundle.c.body).where(bundle.c.digest == digest)
    body = connection.scalar(query)
    if body is None:
        raise ServiceError(f"There is no bundle {digest}.")
    return read_bundle(body)


@decoder("A bundle")
def read_bundle(body: bytes) -> Bundle:
    """Read the body of a row of ``em_bundle``."""
    return Bundle.from_json(unpack("A bundle", body))


def _step(
    connection: sa.Connection, found: Job, state: JobState, wanted: Wanted
) -> None:
    """Move a job to a state that its owner asked for."""
    values: dict[str, Any] = {"state": state.value, "wanted": wanted.value}
    if state is JobState.QUEUED:
        values |= {"fruitless": 0}
    if wanted is not Wanted.CANCEL:
        values |= {"why": None}
    if not state.is_held:
        values |= {"not_before": None}
    connection.execute(
        sa.update(job).where(job.c.id == found.id).values(changed=NOW, **values)
    )
    data = {"from": found.state.value, "to": state.value}
    record_event(connection, found.id, f"{wanted.value}_wanted", data)
