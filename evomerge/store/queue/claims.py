"""Claims: which supervisor may start a job's process, by the database's clock.

A claim is not what protects a study; its lease is. A claim sees to it that a job is
started by one supervisor, and by another one when that one is gone. Functions take a
connection inside a transaction; ``JobQueue`` opens it.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import sqlalchemy as sa

from evomerge.core.trial import TrialState
from evomerge.errors import ClaimLostError
from evomerge.store.queue import gpu_hours, jobs
from evomerge.store.queue.ending import Next, ProcessEnd, after, after_loss
from evomerge.store.queue.values import HELD, Claim, Job, JobState, Wanted
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import job, study, trial, user

CLAIM_S = 15.0
"""How long a claim holds without a beat."""

_HELD = [state.value for state in HELD]
_FREE: dict[str, Any] = {"claim_by": None, "claim_until": None}
_FINAL = [state.value for state in TrialState if state.is_final]


class OverLimitError(Exception):
    """With this claim its user would have more jobs than are granted: take it back."""


def take(connection: sa.Connection, by: str) -> Claim | None:
    """Claim the job whose turn it is, in one statement; None if none is due.

    The user with the fewest slots for their weight goes first; then priority, then age.

    Raises:
        OverLimitError: Another supervisor was faster with a job of the same user.
    """
    row = connection.execute(_CLAIM, {"by": by}).first()
    if row is None:
        return None
    found = jobs.by_id(connection, row.id)
    _check_limit(connection, found)
    if (why := gpu_hours.over(connection, found.user)) is not None:
        _pause(connection, found, why)
        then = Next(JobState.PAUSED, found.fruitless, why=why)
        _settle(connection, found, then, found.last_progress, ("released", {"by": by}))
        return None
    jobs.record_event(
        connection, found.id, "claimed", {"by": by, "start": found.starts}
    )
    return Claim(found, by, row.claim_epoch)


def beat(connection: sa.Connection, claim: Claim) -> JobState:
    """Prolong a claim and return the state its job is in.

    A claim that has run out and that nobody took is still good.
    """
    state = connection.scalar(
        sa.update(job)
        .where(*_is(claim))
        .values(claim_until=NOW + CLAIM_S)
        .returning(job.c.state)
    )
    if state is None:
        raise _lost(claim)
    return JobState(state)


def started(connection: sa.Connection, claim: Claim) -> JobState:
    """Record that the job's process runs."""
    now = held(connection, claim)
    if now.state is not JobState.STARTING:
        return now.state
    _move(connection, now, {"state": JobState.RUNNING.value})
    jobs.record_event(connection, now.id, "started", {"by": claim.by})
    return JobState.RUNNING


def ended(connection: sa.Connection, claim: Claim, end: ProcessEnd) -> Job:
    """Record how the job's process ended, and what becomes of the job."""
    now = held(connection, claim)
    come = progress(connection, now.study)
    data = {"by": claim.by, "code": end.code, "progress": come}
    _settle(connection, now, after(now, end, come), come, ("ended", data))
    return jobs.by_id(connection, now.id)


def release(connection: sa.Connection, claim: Claim) -> Job:
    """Give a claim back whose process was never started."""
    now = held(connection, claim)
    state = {
        Wanted.RUN: JobState.QUEUED,
        Wanted.PAUSE: JobState.PAUSED,
        Wanted.CANCEL: JobState.CANCELLED,
    }[now.wanted]
    then = Next(state, now.fruitless, why=now.why)
    data = {"by": claim.by}
    _settle(connection, now, then, now.last_progress, ("released", data))
    return jobs.by_id(connection, now.id)


def give_back(connection: sa.Connection, by: str, known: Collection[int]) -> None:
    """Release every job of a supervisor but those that it knows of."""
    held_jobs = connection.execute(
        sa.select(job.c.id, job.c.claim_epoch)
        .where(job.c.state.in_(_HELD), job.c.claim_by == by, job.c.id.not_in(known))
        .order_by(job.c.id)
    ).all()
    for row in held_jobs:
        release(connection, Claim(jobs.by_id(connection, row.id), by, row.claim_epoch))


def sweep(connection: sa.Connection) -> list[Job]:
    """Free the jobs whose supervisors are gone; return them as they are now.

    Their processes ended with them. Those wanted to run are queued again; those that
    were to be paused or cancelled are.
    """
    # After the database's clock was set back a claim must not hold for that long.
    connection.execute(
        sa.update(job)
        .where(job.c.claim_until > NOW + CLAIM_S)
        .values(claim_until=NOW + CLAIM_S)
    )
    lost = connection.scalars(
        sa.select(job.c.id)
        .where(job.c.state.in_(_HELD), job.c.claim_until < NOW)
        .order_by(job.c.id)
        .with_for_update(skip_locked=True)
    ).all()
    for job_id in lost:
        now = jobs.by_id(connection, job_id)
        come = progress(connection, now.study)
        by = now.claim_by or "unknown"
        then = after_loss(now, by, come)
        data = {"by": by, "progress": come}
        _settle(connection, now, then, come, ("supervisor_lost", data))
    return [jobs.by_id(connection, job_id) for job_id in lost]


def pause_beyond(connection: sa.Connection) -> None:
    """Pause the jobs of users whose GPU-hours are used."""
    for job_id, why in gpu_hours.beyond(connection).items():
        _pause(connection, jobs.by_id(connection, job_id), why)


def held(connection: sa.Connection, claim: Claim) -> Job:
    """Return the job as it is now, locked, if it is still the claim's."""
    query = sa.select(job.c.id).where(*_is(claim))
    if connection.scalar(query.with_for_update()) is None:
        raise _lost(claim)
    return jobs.by_id(connection, claim.job.id)


def progress(connection: sa.Connection, name: str) -> int:
    """Count final trials and items recorded of a study and its stages."""
    mine = sa.or_(
        study.c.name == name, study.c.name.startswith(f"{name}.", autoescape=True)
    )
    n_items = sa.select(sa.func.coalesce(sa.func.sum(study.c.n_items), 0)).where(mine)
    n_final = (
        sa.select(sa.func.count())
        .select_from(trial.join(study))
        .where(mine, trial.c.state.in_(_FINAL))
    )
    return sum(int(connection.scalar(query) or 0) for query in (n_items, n_final))


def _claim_statement() -> Any:
    due, held_job = job.alias("due"), job.alias("held_job")
    in_use = (
        sa.select(
            held_job.c.user_id,
            sa.func.count().label("n"),
            sa.func.sum(held_job.c.slots).label("slots"),
        )
        .where(held_job.c.state.in_(_HELD))
        .group_by(held_job.c.user_id)
        .subquery()
    )
    n = sa.func.coalesce(in_use.c.n, 0)
    share = sa.func.coalesce(in_use.c.slots, 0) / user.c.weight
    waiting = [JobState.QUEUED.value, JobState.WAITING.value]
    turn = (
        sa.select(due.c.id)
        .join(user, user.c.id == due.c.user_id)
        .join(in_use, in_use.c.user_id == due.c.user_id, isouter=True)
        .where(
            due.c.state.in_(waiting),
            sa.or_(due.c.not_before.is_(None), due.c.not_before <= NOW),
            sa.or_(user.c.max_running.is_(None), n < user.c.max_running),
        )
        .order_by(share, due.c.priority.desc(), due.c.id)
        .limit(1)
        .with_for_update(of=due, skip_locked=True)
        .scalar_subquery()
    )
    return (
        sa.update(job)
        .where(job.c.id == turn)
        .values(
            state=JobState.STARTING.value,
            claim_by=sa.bindparam("by"),
            claim_epoch=job.c.claim_epoch + 1,
            claim_until=NOW + CLAIM_S,
            not_before=None,
            starts=job.c.starts + 1,
            changed=NOW,
        )
        .returning(job.c.id, job.c.claim_epoch)
    )


_CLAIM = _claim_statement()


def _check_limit(connection: sa.Connection, found: Job) -> None:
    """Count again under the user's lock: the statement saw what was committed then."""
    of_user = sa.select(user.c.id, user.c.max_running).where(user.c.name == found.user)
    most = connection.execute(of_user).one().max_running
    if most is None:
        return
    row = connection.execute(of_user.with_for_update(key_share=True)).one()
    n = connection.scalar(
        sa.select(sa.func.count())
        .select_from(job)
        .where(job.c.user_id == row.id, job.c.state.in_(_HELD))
    )
    if n is not None and row.max_running is not None and n > row.max_running:
        raise OverLimitError


def _pause(connection: sa.Connection, found: Job, why: str) -> None:
    now = jobs.find(connection, found.user, found.name, locked=True)
    if now.wanted is Wanted.RUN and not now.state.is_final:
        jobs.want(connection, now.user, now.name, Wanted.PAUSE)
        connection.execute(sa.update(job).where(job.c.id == now.id).values(why=why))


def _settle(
    connection: sa.Connection,
    now: Job,
    then: Next,
    come: int,
    event: tuple[str, dict[str, Any]],
) -> None:
    """Free a job and move it to the state that follows."""
    values: dict[str, Any] = {
        "state": then.state.value,
        "fruitless": then.fruitless,
        "last_progress": come,
        "why": then.why,
        "not_before": NOW + then.pause_s if then.pause_s else None,
        **_FREE,
    }
    _move(connection, now, values)
    kind, data = event
    told = {**data, "state": then.state.value, "why": then.why}
    jobs.record_event(connection, now.id, kind, told)


def _move(connection: sa.Connection, now: Job, values: dict[str, Any]) -> None:
    connection.execute(
        sa.update(job).where(job.c.id == now.id).values(changed=NOW, **values)
    )


def _is(claim: Claim) -> tuple[sa.ColumnElement[bool], ...]:
    return (
        job.c.id == claim.job.id,
        job.c.claim_by == claim.by,
        job.c.claim_epoch == claim.epoch,
    )


def _lost(claim: Claim) -> ClaimLostError:
    return ClaimLostError(
        f"Job {claim.job.address} is no longer {claim.by}'s: its claim ran out, and it "
        "was taken from there."
    )
