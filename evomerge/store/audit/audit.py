"""Compare what is stored with what was promised; change nothing.

Everything is looked at in one snapshot, so a study may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial

import sqlalchemy as sa

from evomerge.core.scoring_protocol import TaskDescription
from evomerge.core.trial import Blame, Record, TrialState
from evomerge.store import studies
from evomerge.store.audit.blocks import check_blocks
from evomerge.store.audit.jobs import check_jobs
from evomerge.store.audit.parts import check_parts
from evomerge.store.tables.decoding import legible
from evomerge.store.tables.rows import (
    Row,
    attempt_of,
    generation_of,
    record_of,
    study_of,
)
from evomerge.store.tables.schema import (
    attempt,
    generation,
    outcome_block,
    study,
    trial,
)
from evomerge.store.values import Attempt, AttemptEnd, Fault

Notice = Callable[[str], None]
_FINAL_ENDS = (AttemptEnd.SCORED, AttemptEnd.FAILED)


def audit(connection: sa.Connection, notice: Notice) -> list[Fault]:
    """Return every broken promise of the database."""
    faults = list(_file(connection, notice))
    known: dict[int, tuple[str, list[TaskDescription] | None]] = {}
    for row in connection.execute(sa.select(study).order_by(study.c.id)).all():
        notice(f"study {row.name}")
        where = f"study {row.name!r}"
        tasks = legible(where, partial(studies.tasks_of, connection, row.id))
        if isinstance(tasks, Fault):
            faults.append(tasks)
            tasks = None
        known[row.id] = (row.name, tasks)
        faults += _study(connection, row, has_tasks=tasks is not None)
        faults += check_parts(connection, row, tasks)
    faults += check_blocks(connection, known, notice)
    notice("jobs")
    faults += check_jobs(connection)
    return faults


def _file(connection: sa.Connection, notice: Notice) -> Iterator[Fault]:
    """Ask SQLite about its file; PostgreSQL looks after its own."""
    if connection.dialect.name != "sqlite":
        return
    notice("the file")
    for said in connection.exec_driver_sql("PRAGMA integrity_check").scalars():
        if said != "ok":
            yield Fault("the file", f"SQLite found it damaged: {said}")
    for row in connection.exec_driver_sql("PRAGMA foreign_key_check"):
        yield Fault(f"table {row[0]}", f"row {row[1]} names no row of {row[2]}")


def _study(connection: sa.Connection, row: Row, *, has_tasks: bool) -> Iterator[Fault]:
    where = f"study {row.name!r}"
    if isinstance(unread := legible(where, partial(study_of, row)), Fault):
        yield unread
    else:
        yield from _items(connection, where, row)
    sizes: dict[int, int] = {}
    for found in connection.execute(
        sa.select(generation)
        .where(generation.c.study_id == row.id)
        .order_by(generation.c.number)
    ):
        here = f"{where}, generation {found.number}"
        if isinstance(told := legible(here, partial(generation_of, found)), Fault):
            yield told
        if type(found.number) is type(found.size) is int:
            sizes[found.number] = found.size
    yield from _order(connection, where, row, sizes)
    yield from _trials(connection, row, last=max(sizes, default=0), has_tasks=has_tasks)


def _trials(
    connection: sa.Connection, row: Row, *, last: int, has_tasks: bool
) -> Iterator[Fault]:
    where = f"study {row.name!r}"
    attempts: dict[int, list[Attempt]] = {}
    for found in connection.execute(
        sa.select(attempt)
        .where(attempt.c.study_id == row.id)
        .order_by(attempt.c.trial, attempt.c.attempt)
    ):
        here = f"{where}, trial {found.trial}, attempt {found.attempt}"
        tried = legible(here, partial(attempt_of, found))
        if isinstance(tried, Fault):
            yield tried
        else:
            attempts.setdefault(found.trial, []).append(tried)
    query = sa.select(trial).where(trial.c.study_id == row.id).order_by(trial.c.number)
    for found in connection.execute(query):
        here = f"{where}, trial {found.number}"
        record = legible(here, partial(record_of, found))
        if isinstance(record, Fault):
            yield record
            continue
        yield from check_trial(here, record, last=last)
        yield from check_attempts(here, record, attempts.get(record.number, []))
        if record.state == "running" and row.lease_until is None:
            yield Fault(here, "is running, but nobody holds the study")
        if record.state == "scored" and not has_tasks:
            yield Fault(here, "is scored, but the study has no tasks recorded")


def _order(
    connection: sa.Connection, where: str, row: Row, sizes: dict[int, int]
) -> Iterator[Fault]:
    """Generations and trials are numbered without a gap, in one order."""
    if list(sizes) != list(range(len(sizes))):
        yield Fault(where, f"generations are {list(sizes)[:20]}, not 0, 1, 2 ...")
    places = connection.execute(
        sa.select(trial.c.number, trial.c.generation, trial.c.position)
        .where(trial.c.study_id == row.id)
        .order_by(trial.c.number)
    ).all()
    n_expected = sum(sizes.values())
    found = [(place.generation, place.position) for place in places]
    # A damaged size may be any number: nothing is counted out that is not there.
    is_whole = n_expected == len(found)
    if not is_whole or found != [(g, i) for g, n in sizes.items() for i in range(n)]:
        yield Fault(
            where,
            f"{len(found)} trials are not the {n_expected} that its generations "
            "hold, one after another",
        )
    if [place.number for place in places] != list(range(len(places))):
        yield Fault(where, "trials are not numbered from 0 on without a gap")


def _items(connection: sa.Connection, where: str, row: Row) -> Iterator[Fault]:
    """The count of items is the sum of the blocks charged to the study."""
    charged = connection.scalar(
        sa.select(sa.func.coalesce(sa.func.sum(outcome_block.c.n_items), 0)).where(
            outcome_block.c.charged_to == row.id
        )
    )
    # Blocks of the first schema do not say who paid.
    unknown = connection.scalar(
        sa.select(sa.func.count())
        .select_from(outcome_block)
        .where(outcome_block.c.charged_to.is_(None))
    )
    if row.n_items != charged and not (unknown and row.n_items > charged):
        yield Fault(where, f"counts {row.n_items} items, its blocks hold {charged}")


def check_trial(where: str, record: Record, *, last: int) -> Iterator[Fault]:
    """Look at a trial's row alone.

    Args:
        where: Names it.
        record: The row.
        last: The study's last generation; earlier ones are over.
    """
    state, failure = record.state, record.failure
    is_scored = state is TrialState.SCORED
    if is_scored != (record.scores is not None):
        yield Fault(where, f"is {state} with scores {record.scores}")
    if is_scored and failure is not None:
        yield Fault(where, f"is scored with a failure ({failure.cause})")
    if state is TrialState.FAILED and (
        failure is None or failure.blame is not Blame.CANDIDATE
    ):
        yield Fault(where, f"is failed, but not by the candidate's fault: {failure}")
    if state is TrialState.QUARANTINED and (
        failure is None or failure.blame is not Blame.MACHINE
    ):
        yield Fault(where, f"is quarantined, but not by a machine's fault: {failure}")
    if record.reused and not is_scored:
        yield Fault(where, f"is {state}, but marked as reused")
    if record.generation < last and not state.is_final:
        yield Fault(where, f"is {state}, but generation {last} came after its own")


def check_attempts(
    where: str, record: Record, attempts: Sequence[Attempt]
) -> Iterator[Fault]:
    """Compare a trial's row with its attempts, oldest first."""
    numbers = [attempt.attempt for attempt in attempts]
    if numbers != list(range(1, record.attempt + 1)):
        yield Fault(where, f"had {record.attempt} attempts, {numbers} are recorded")
        return
    ends = [attempt.end for attempt in attempts]
    is_running = record.state is TrialState.RUNNING
    open_ones = [a.attempt for a in attempts if a.ended is None or a.end is None]
    if open_ones != ([record.attempt] if is_running else []):
        yield Fault(where, f"is {record.state}, but attempts {open_ones} are open")
    if any(end in _FINAL_ENDS for end in ends[:-1]):
        yield Fault(where, f"went on after a final attempt: {_words(ends)}")
    expected = _last_ends(record)
    if ends and not is_running and ends[-1] not in expected:
        yield Fault(where, f"is {record.state}, but its attempts ended {_words(ends)}")
    if not ends and record.state.is_final and not record.reused:
        yield Fault(where, f"is {record.state} without an attempt")
    n_faults = ends.count(AttemptEnd.FAULT)
    n_unknown = ends.count(AttemptEnd.UNKNOWN)
    if record.faults != n_faults and not n_unknown:
        yield Fault(where, f"counts {record.faults} faults, its attempts {n_faults}")


def _last_ends(record: Record) -> tuple[AttemptEnd, ...]:
    """Return how the last attempt may have ended, by the trial's state."""
    unknown = AttemptEnd.UNKNOWN
    waiting = (AttemptEnd.FAULT, AttemptEnd.INTERRUPTED, unknown)
    if record.reused:
        return waiting
    return {
        TrialState.SCORED: (AttemptEnd.SCORED, unknown),
        TrialState.FAILED: (AttemptEnd.FAILED, unknown),
        TrialState.QUARANTINED: (AttemptEnd.FAULT, unknown),
    }.get(record.state, waiting)


def _words(ends: Sequence[AttemptEnd | None]) -> str:
    return ", ".join(end.value if end else "not" for end in ends)
