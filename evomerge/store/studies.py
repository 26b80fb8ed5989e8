"""Studies, their tasks and what they have used: what stands above the trials.

Functions take a connection inside a transaction; ``SqlStore`` opens it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import IntegrityError

from evomerge.core.nearest import nearest
from evomerge.core.scoring_protocol import ScoringProtocol, TaskDescription
from evomerge.core.trial import TrialState
from evomerge.errors import (
    StoreError,
    StudyExistsError,
    StudyNotFoundError,
)
from evomerge.store.leases import check_lease
from evomerge.store.owner import host_name, is_alive
from evomerge.store.tables import rows
from evomerge.store.tables.decoding import count, mapping
from evomerge.store.tables.dialects import NOW, insert_absent
from evomerge.store.tables.schema import (
    generation,
    job,
    manifest,
    outcome_block,
    protocol,
    study,
    task,
    trial,
)
from evomerge.store.values import Holder, Lease, Overview, Size, StoredStudy, Usage

_MAX_NAME = 200
_MAX_SEED = 2**63
_SHOWN_NAMES = 20


def create(
    connection: sa.Connection,
    name: str,
    config: Mapping[str, Any],
    allowance: Mapping[str, Any],
    seed: int,
) -> StoredStudy:
    """Record a new study."""
    if not 0 < len(name) <= _MAX_NAME:
        raise StoreError(
            f"A study's name has 1 to {_MAX_NAME} characters, {name!r} has {len(name)}."
        )
    if not 0 <= seed < _MAX_SEED:
        raise StoreError(f"A seed is at least 0 and below 2**63, not {seed}.")
    row = {
        "name": name,
        "config": rows.to_text("A study's configuration", dict(config)),
        "allowance": rows.to_text("A study's allowance", dict(allowance)),
        "seed": seed,
    }
    try:
        connection.execute(sa.insert(study).values(created=NOW), row)
    except IntegrityError as error:
        raise StudyExistsError(
            f"A study named {name!r} exists in this database; resume it, or choose "
            "another name."
        ) from error
    return find(connection, name)


def find(connection: sa.Connection, name: str) -> StoredStudy:
    """Return the study of this name, or say which names there are."""
    row = connection.execute(sa.select(study).where(study.c.name == name)).first()
    if row is not None:
        return rows.study_of(row)
    names = list(connection.scalars(sa.select(study.c.name).order_by(study.c.id)))
    if not names:
        raise StudyNotFoundError(
            f"No study named {name!r}: this database holds no study yet."
        )
    near = nearest(name, names)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    listed = ", ".join(repr(n) for n in names[-_SHOWN_NAMES:])
    more = len(names) - _SHOWN_NAMES
    listed += f" and {more} older ones" if more > 0 else ""
    raise StudyNotFoundError(
        f"No study named {name!r} in this database.{hint} There are: {listed}."
    )


def every(connection: sa.Connection) -> list[StoredStudy]:
    """Return all studies, oldest first."""
    found = connection.execute(sa.select(study).order_by(study.c.id))
    return [rows.study_of(row) for row in found]


def usage(connection: sa.Connection, study_id: int) -> Usage:
    """Read what counts against the budget; baselines (generation 0) do not."""
    row = connection.execute(
        sa.select(study.c.n_items, study.c.n_finals, study.c.spent_s).where(
            study.c.id == study_id
        )
    ).first()
    if row is None:
        raise StudyNotFoundError(f"No study with id {study_id} in this database.")
    last = connection.scalar(
        sa.select(sa.func.max(trial.c.number)).where(trial.c.study_id == study_id)
    )
    baselines = connection.scalar(
        sa.select(generation.c.size).where(
            generation.c.study_id == study_id, generation.c.number == 0
        )
    )
    free = count("The size of a generation", baselines)
    free += count("The number of finals", row.n_finals)
    asked = 0 if last is None else count("A trial's number", last) + 1 - free
    items = count("The number of items", row.n_items)
    return Usage(trials=asked, items=items, seconds=row.spent_s)


def record_tasks(
    connection: sa.Connection, lease: Lease, tasks: Sequence[TaskDescription]
) -> None:
    """Record manifests and protocols once; later ones must be the same."""
    check_lease(connection, lease)
    recorded = tasks_of(connection, lease.study_id)
    if recorded is not None:
        _refuse_different(recorded, tasks)
        return
    if not tasks:
        raise StoreError("A study needs at least one task.")
    for position, entry in enumerate(tasks):
        settings = rows.to_text("A protocol", dict(entry.protocol.settings))
        body = rows.pack("A manifest", entry.manifest.to_json())
        way, items = entry.protocol.digest, entry.manifest.digest
        insert_absent(connection, protocol, {"digest": way, "settings": settings})
        insert_absent(connection, manifest, {"digest": items, "body": body})
        row = {
            "study_id": lease.study_id,
            "position": position,
            "task": entry.manifest.task,
            "protocol_digest": way,
            "manifest_digest": items,
            "metrics": rows.to_text("Metric names", list(entry.metrics)),
        }
        connection.execute(sa.insert(task), row)


def tasks_of(connection: sa.Connection, study_id: int) -> list[TaskDescription] | None:
    """Return the recorded manifests and protocols, None if there are none yet."""
    found = connection.execute(
        sa.select(task.c.task, task.c.metrics, protocol.c.settings, manifest.c.body)
        .join_from(task, protocol)
        .join(manifest)
        .where(task.c.study_id == study_id)
        .order_by(task.c.position)
    ).all()
    if not found:
        return None
    return [
        TaskDescription(
            manifest=rows.manifest_of(row.body),
            protocol=ScoringProtocol(row.task, mapping("A protocol", row.settings)),
            metrics=rows.metrics_of(row.metrics),
        )
        for row in found
    ]


def _refuse_different(
    recorded: Sequence[TaskDescription], came: Sequence[TaskDescription]
) -> None:
    old = {t.manifest.task: t for t in recorded}
    new = {t.manifest.task: t for t in came}
    if list(old) != list(new):
        raise StoreError(
            f"This study scores the tasks {list(old)}, but the worker offers "
            f"{list(new)}; start a new study."
        )
    for name, entry in new.items():
        was = old[name]
        if entry.manifest.digest != was.manifest.digest:
            what = "other items (manifest)"
        elif entry.protocol.digest != was.protocol.digest:
            keys = _differing(was.protocol.settings, entry.protocol.settings)
            what = f"another protocol ({', '.join(keys)})"
        elif entry.metrics != was.metrics:
            what = "other metrics"
        else:
            continue
        raise StoreError(
            f"Task {name!r} was recorded with {what} than the worker offers: its data, "
            "settings or library versions changed. Bring them back, or start a new "
            "study."
        )


def _differing(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    absent = object()
    keys = sorted({*old, *new})
    return [k for k in keys if old.get(k, absent) != new.get(k, absent)]


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
            usage=Usage(asked[row.id] - row.n_finals, row.n_items, row.spent_s),
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


def is_of_job() -> sa.ColumnElement[bool]:
    """A job's study, or one of its stages; names may hold what LIKE takes for more."""
    start = sa.func.substr(study.c.name, 1, sa.func.length(job.c.study) + 1)
    return sa.or_(study.c.name == job.c.study, start == job.c.study + ".")
