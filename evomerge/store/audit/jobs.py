"""Compare the rows of jobs, and of those who submit them, with what was promised."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from functools import partial

import sqlalchemy as sa

from evomerge.store.queue.accounts import token_of, user_of
from evomerge.store.queue.exports import export_of
from evomerge.store.queue.jobs import event_of, every, job_of, read_bundle
from evomerge.store.queue.values import ExportState, Job, JobEvent, JobState, Wanted
from evomerge.store.tables.decoding import legible
from evomerge.store.tables.rows import Row
from evomerge.store.tables.schema import bundle, export, job_event, token, user
from evomerge.store.values import Fault

_RUN = frozenset({Wanted.RUN})
_WANTED = {
    JobState.QUEUED: _RUN,
    JobState.STARTING: _RUN,
    JobState.RUNNING: _RUN,
    JobState.WAITING: _RUN,
    JobState.PAUSING: frozenset({Wanted.PAUSE, Wanted.RUN}),
    JobState.PAUSED: frozenset({Wanted.PAUSE}),
    JobState.CANCELLING: frozenset({Wanted.CANCEL}),
    JobState.CANCELLED: frozenset({Wanted.CANCEL}),
}
"""What may be wanted of a job in a state; anything where none is named."""


def check_jobs(connection: sa.Connection) -> Iterator[Fault]:
    """Find every broken promise of users, tokens, bundles, jobs and exports."""
    for row in connection.execute(sa.select(user).order_by(user.c.id)):
        somebody = legible(f"user {row.name!r}", partial(user_of, row))
        if isinstance(somebody, Fault):
            yield somebody
    tokens = sa.select(token, user.c.name.label("user")).join(user)
    for row in connection.execute(tokens):
        where = f"token {row.name!r} of {row.user}"
        shown = legible(where, partial(token_of, row))
        if isinstance(shown, Fault):
            yield shown
    for row in connection.execute(sa.select(bundle)):
        where = f"bundle {row.digest}"
        files = legible(where, partial(read_bundle, row.body))
        if isinstance(files, Fault):
            yield files
        elif (files.digest, files.size_bytes) != (row.digest, row.size_bytes):
            yield Fault(where, "holds other files than its digest and size say")
    events = defaultdict[int, list[JobEvent | Fault]](list)
    query = sa.select(job_event).order_by(job_event.c.job_id, job_event.c.number)
    for row in connection.execute(query):
        where = f"job {row.job_id}, event {row.number}"
        events[row.job_id].append(legible(where, partial(event_of, row)))
    names = {row.id: f"job {row.user}/{row.name}" for row in every(connection)}
    for row in every(connection):
        yield from _job(row, events[row.id])
    yield from _exports(connection, names)


def _exports(connection: sa.Connection, names: dict[int, str]) -> Iterator[Fault]:
    numbers = defaultdict[int, list[int]](list)
    query = sa.select(export).order_by(export.c.job_id, export.c.number)
    for row in connection.execute(query):
        numbers[row.job_id].append(row.number)
        where = f"{names.get(row.job_id, f'job {row.job_id}')}, export {row.number}"
        found = legible(where, partial(export_of, row))
        if isinstance(found, Fault):
            yield found
            continue
        state = found["state"]
        is_claimed = row.claim_by is not None and row.claim_until is not None
        is_free = row.claim_by is None and row.claim_until is None
        if not (is_claimed if state is ExportState.RUNNING else is_free):
            yield Fault(where, f"is {state}, and {row.claim_by or 'nobody'} has it")
        has_model = row.size_bytes > 0 and row.fingerprint is not None
        if has_model is not (state is ExportState.FINISHED):
            said = f"is {state}, with {row.size_bytes} bytes of {row.fingerprint}"
            yield Fault(where, said)
        if (row.why is not None) is not (state is ExportState.FAILED):
            yield Fault(where, f"is {state}, for the reason {row.why!r}")
    for job_id, found_ones in numbers.items():
        if found_ones != list(range(1, len(found_ones) + 1)):
            said = f"has exports {found_ones[:20]}, not 1, 2, 3 ..."
            yield Fault(names.get(job_id, f"job {job_id}"), said)


def _job(row: Row, events: list[JobEvent | Fault]) -> Iterator[Fault]:
    where = f"job {row.user}/{row.name}"
    found = legible(where, partial(job_of, row))
    if isinstance(found, Fault):
        yield found
        return
    yield from _claim(where, found, row)
    if found.wanted not in _WANTED.get(found.state, Wanted):
        yield Fault(
            where, f"is {found.state}, and {found.wanted.value!r} is wanted of it"
        )
    if row.slots != found.place.get("workers", 1):
        yield Fault(where, f"counts {row.slots} slots, and asks for {found.place}")
    yield from (event for event in events if isinstance(event, Fault))
    numbers = [event.number for event in events if isinstance(event, JobEvent)]
    if numbers != list(range(1, len(events) + 1)) or not events:
        yield Fault(where, f"has events {numbers[:20]}, not 1, 2, 3 ...")


def _claim(where: str, found: Job, row: Row) -> Iterator[Fault]:
    is_claimed = found.claim_by is not None and row.claim_until is not None
    is_free = found.claim_by is None and row.claim_until is None
    if found.state.is_held and not is_claimed:
        yield Fault(where, f"is {found.state}, but no supervisor has it")
    if not found.state.is_held and not is_free:
        yield Fault(where, f"is {found.state}, but {found.claim_by} has it")
    if found.fruitless > found.starts:
        said = f"was started {found.starts} times, {found.fruitless} of them in vain"
        yield Fault(where, said)
