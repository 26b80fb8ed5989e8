"""Compare what is stored with what was promised; change nothing.

Everything is looked at in one snapshot, so a study may run meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial

import sqlalchemy as sa

from evomerge.core.scoring_protocol import TaskDescription
from evomerge.store import studies
from evomerge.store.audit.blocks import check_blocks
from evomerge.store.audit.history import check_attempts, check_trial
from evomerge.store.audit.stored_rows import legible
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
from evomerge.store.values import Attempt, Fault

Notice = Callable[[str], None]


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
    faults += check_blocks(connection, known, notice)
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
    expected = [(g, i) for g, size in sizes.items() for i in range(size)]
    found = [(place.generation, place.position) for place in places]
    if found != expected:
        yield Fault(
            where,
            f"{len(found)} trials are not the {len(expected)} that its generations "
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
