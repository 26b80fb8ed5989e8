"""A database at a glance; a few queries, however many studies there are."""

from __future__ import annotations

from collections import defaultdict

import sqlalchemy as sa

from evomerge.core.trial import TrialState
from evomerge.store.clock import NOW
from evomerge.store.owner import host_name, is_alive
from evomerge.store.tables import rows
from evomerge.store.tables.schema import outcome_block, study, trial
from evomerge.store.values import Holder, Overview, Size, Usage


def overview(connection: sa.Connection, study_id: int | None = None) -> list[Overview]:
    """Return every study, or one, with its counts and who runs it, oldest first."""
    of_zero = sa.case((trial.c.generation == 0, 1), else_=0)
    counting = sa.select(
        trial.c.study_id,
        trial.c.state,
        sa.func.count().label("n"),
        sa.func.sum(of_zero).label("n_free"),
    ).group_by(trial.c.study_id, trial.c.state)
    left = (study.c.lease_until - NOW).label("left")
    wanted = sa.select(study, left).order_by(study.c.id)
    if study_id is not None:
        counting = counting.where(trial.c.study_id == study_id)
        wanted = wanted.where(study.c.id == study_id)
    counts: dict[int, dict[TrialState, int]] = defaultdict(dict)
    asked: dict[int, int] = defaultdict(int)
    for row in connection.execute(counting):
        counts[row.study_id][rows.state_of(row.state)] = row.n
        asked[row.study_id] += row.n - row.n_free
    return [
        Overview(
            study=rows.study_of(row),
            usage=Usage(asked[row.id], row.n_items, row.spent_s),
            counts={s: counts[row.id].get(s, 0) for s in TrialState},
            holder=_holder(row),
        )
        for row in connection.execute(wanted)
    ]


def size(connection: sa.Connection) -> Size:
    """Count studies, trials and blocks of outcomes."""
    counts = [
        connection.scalar(sa.select(sa.func.count()).select_from(table)) or 0
        for table in (study, trial, outcome_block)
    ]
    return Size(*counts)


def _holder(row: rows.Row) -> Holder | None:
    if row.lease_until is None or row.left <= 0:
        return None
    owner = rows.owner_of(row)
    if not is_alive(owner):
        return None
    return Holder(host_name(owner), owner.pid, row.left)
