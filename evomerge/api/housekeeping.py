"""Look after a database: list and delete studies, upgrade, check."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from evomerge.api.staged import every_part, found, whole_of
from evomerge.core.trial import TrialState
from evomerge.logs import say
from evomerge.steps import step
from evomerge.store.base import Fault, Overview, Store, StoredStudy
from evomerge.store.databases import database
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.store.values import Attempt, Deleted, Part

_LEASE_S = 60.0


@dataclass(frozen=True, slots=True)
class StudyRow:
    """A study at a glance.

    Attributes:
        state: Who searches it, ``stopped``, or why the search ended.
        counts: Trial state to number of trials, baselines among them.
        trials: Candidates asked of the strategy.
        allowed: How many of them the budget allows; None for any number.
        items: Items scored for them.
        seconds: Wall time of all runs.
    """

    name: str
    state: str
    created: str
    counts: Mapping[str, int]
    trials: int
    allowed: int | None
    items: int
    seconds: float


@dataclass(frozen=True, slots=True)
class Removal:
    """What deleting a study removes; what other studies name is not counted.

    Of a study with stages, what its stages share is not counted before they are gone.
    """

    name: str
    trials: int
    recipes: int
    blocks: int


@dataclass(frozen=True, slots=True)
class Upgrade:
    """What an upgrade did.

    Attributes:
        copy: File of the copy made first; None where there is none to make.
    """

    before: str
    after: str
    copy: str | None


@dataclass(frozen=True, slots=True)
class Audit:
    """What a check looked at, and every broken promise it found."""

    studies: int
    trials: int
    blocks: int
    faults: tuple[Fault, ...]


@dataclass(frozen=True, slots=True)
class PartRow:
    """What one worker was handed of an attempt; times as those of the attempt.

    Attributes:
        blocks: ``task/number`` of each.
        end: ``running``, or how it ended.
    """

    part: int
    worker: str
    blocks: tuple[str, ...]
    began: str
    ended: str | None
    end: str
    cause: str | None


@dataclass(frozen=True, slots=True)
class AttemptRow:
    """One attempt at a trial.

    Attributes:
        began: Database time, ISO 8601 in UTC; None where it was not remembered.
        ended: None while it runs.
        end: ``running``, or how it ended.
        failure: The cause in words, if it failed.
        parts: Who was handed which blocks; empty where that was not remembered.
    """

    trial: int
    attempt: int
    worker: str | None
    began: str | None
    ended: str | None
    end: str
    failure: str | None
    parts: tuple[PartRow, ...] = ()


def studies(*, db: str) -> tuple[StudyRow, ...]:
    """Return every study of a database, oldest first; stages stand together."""
    with opened(db) as store:
        entries = store.overview()
    first: dict[str, int] = {}
    for place, entry in enumerate(entries):
        first.setdefault(whole_of(entry.study), place)
    entries = sorted(entries, key=lambda one: first[whole_of(one.study)])
    return tuple(_row(entry) for entry in entries)


def removal(name: str, *, db: str) -> Removal:
    """Return what ``delete`` would remove; nothing is changed.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    with opened(db) as store:
        gone = [store.deletion(one.id) for one in every_part(store, name)]
    return _removal(name, gone)


def delete(name: str, *, db: str) -> Removal:
    """Delete a study, with the recipes and outcomes that no other study names.

    A study with stages goes as a whole; a stage can be deleted by itself, and what
    later stages took from it stays with them.

    Raises:
        StudyNotFoundError: There is no such study.
        StudyLockedError: It is being run; says by whom.
    """
    with opened(db) as store, ExitStack() as held:
        leases = []
        for one in every_part(store, name):
            leases.append(store.lease(one.id, this_process(), _LEASE_S))
            held.callback(store.release, leases[-1])
        gone = [store.delete(lease) for lease in reversed(leases)]
        held.pop_all()
    return _removal(name, gone)


def _removal(name: str, gone: Sequence[Deleted]) -> Removal:
    return Removal(
        name,
        sum(one.trials for one in gone),
        sum(one.recipes for one in gone),
        sum(one.blocks for one in gone),
    )


def upgrade(*, db: str) -> Upgrade:
    """Bring a database to the present schema, after copying it where it is a file.

    Raises:
        StoreError: It cannot be used, or a study in it is being run.
        SchemaError: It is not ours, or newer than this evomerge.
    """
    done = database.upgrade(db)
    copy = None if done.copy is None else str(done.copy)
    return Upgrade(done.before, done.after, copy)


def audit(*, db: str, notice: Callable[[str], None] | None = None) -> Audit:
    """Compare what a database holds with every promise; nothing is changed.

    Args:
        db: Database URL.
        notice: Told what is being looked at, for progress.
    """
    with opened(db) as store:
        faults = tuple(store.check(notice))
        size = store.size()
    return Audit(size.studies, size.trials, size.blocks, faults)


def attempts(name: str, *, db: str, trial: int | None = None) -> tuple[AttemptRow, ...]:
    """Return the attempts at a study's trials, or at one of them, oldest first.

    Raises:
        StudyNotFoundError: There is no such study.
        StoreError: There is no such trial.
    """
    with opened_study(db, name) as (store, stored):
        study_id = stored.id
        if trial is not None:
            store.trial(study_id, trial)
        return attempts_of(store, study_id, trial)


def attempts_of(
    store: Store, study_id: int, trial: int | None = None
) -> tuple[AttemptRow, ...]:
    """Return the attempts at the trials of a study that is open, or at one of them."""
    every: Sequence[Attempt] = store.attempts(study_id, trial)
    parts = defaultdict[tuple[int, int], list[Part]](list)
    for part in store.parts(study_id, trial):
        parts[part.trial, part.attempt].append(part)
    return tuple(_attempt(one, parts[one.trial, one.attempt]) for one in every)


def state_of(entry: Overview) -> str:
    """Tell in words who searches a study, or how its search ended."""
    if entry.holder is not None:
        return f"searching: process {entry.holder.pid} on {entry.holder.host}"
    return entry.study.finished or "stopped"


@contextmanager
def opened(db: str) -> Iterator[Store]:
    """Open a database that is there, and close it at the end."""
    with step("reading the database"):
        store = open_store(db, create=False)
        try:
            yield store
        finally:
            store.close()


@contextmanager
def opened_study(db: str, name: str) -> Iterator[tuple[Store, StoredStudy]]:
    """Open a database and one study of it; of one with stages the last that has begun.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    with opened(db) as store:
        stored = found(store, name)
        if stored.name != name:
            say([f"{name} has stages; this is {stored.name}, the last that has begun."])
        yield store, stored


def _row(entry: Overview) -> StudyRow:
    budget = entry.study.allowance.get("budget", {})
    return StudyRow(
        name=entry.study.name,
        state=state_of(entry),
        created=entry.study.created,
        counts={state.value: entry.counts.get(state, 0) for state in TrialState},
        trials=entry.usage.trials,
        allowed=budget.get("trials"),
        items=entry.usage.items,
        seconds=entry.usage.seconds,
    )


def _part(entry: Part) -> PartRow:
    return PartRow(
        part=entry.part,
        worker=entry.worker,
        blocks=tuple(f"{block.task}/{block.index}" for block in entry.blocks),
        began=entry.began,
        ended=entry.ended,
        end="running" if entry.end is None else entry.end.value,
        cause=None if entry.cause is None else entry.cause.words,
    )


def _attempt(entry: Attempt, parts: Sequence[Part]) -> AttemptRow:
    said = [entry.cause.words] if entry.cause is not None else []
    said += [entry.message] if entry.message else []
    return AttemptRow(
        trial=entry.trial,
        attempt=entry.attempt,
        worker=entry.worker,
        began=entry.began,
        ended=entry.ended,
        end="running" if entry.end is None else entry.end.value,
        failure=": ".join(said) or None,
        parts=tuple(map(_part, parts)),
    )
