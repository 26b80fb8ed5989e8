"""What a service has done, in numbers: by user, by cause, by state.

Read again and again while studies grow, so what cannot change any more is read once:
generations that two others follow, blocks of outcomes older than a minute, and studies
in which nothing has moved. What is left is as large as what is at work now.

Numbers here are for watching. A row that is damaged counts as nothing; ``db check``
says what is wrong with it.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from evomerge.core.trial import Blame, Cause, TrialState
from evomerge.core.work import ROSTER
from evomerge.errors import StoreError
from evomerge.store.databases.database import Database
from evomerge.store.queue.values import JobState
from evomerge.store.tables.decoding import is_number, mapping
from evomerge.store.tables.dialects import NOW, json_number
from evomerge.store.tables.schema import (
    attempt,
    event,
    generation,
    job,
    outcome_block,
    part,
    study,
    trial,
    user,
)
from evomerge.store.values import AttemptEnd

NOBODY = "_nobody"
"""Whose the studies are that were not submitted; no user can be called so."""
PARTS = ("materialise", "swap", "score")
"""Of a trial's time."""

_SETTLED_S = 60.0
_NEWCOMER = "worker"
_BLAME = {AttemptEnd.FAULT: Blame.MACHINE, AttemptEnd.FAILED: Blame.CANDIDATE}
_CAUSES = frozenset(cause.value for cause in Cause)
_FINAL = frozenset(state.value for state in TrialState if state.is_final)


@dataclass(slots=True)
class Tally:
    """What was done; everything only grows.

    Attributes:
        trials: Final state to number of trials.
        reused: Trials of them whose outcomes were all known.
        faults: Cause and blame to number of attempts.
        items: Items scored that count against budgets.
        tokens: Generated, of all that was recorded.
        seconds: Part of a trial to its time.
        worker_s: Time in which workers had something to do.
        gpu_s: The same, once for each GPU that the worker had.
    """

    trials: Counter[str] = field(default_factory=Counter)
    reused: int = 0
    faults: Counter[tuple[str, str]] = field(default_factory=Counter)
    items: int = 0
    tokens: float = 0.0
    seconds: Counter[str] = field(default_factory=Counter)
    worker_s: float = 0.0
    gpu_s: float = 0.0

    def add(self, other: Tally) -> None:
        """Add another's numbers."""
        self.trials.update(other.trials)
        self.reused += other.reused
        self.faults.update(other.faults)
        self.items += other.items
        self.tokens += other.tokens
        self.seconds.update(other.seconds)
        self.worker_s += other.worker_s
        self.gpu_s += other.gpu_s


@dataclass(frozen=True, slots=True)
class Reading:
    """How a service stands.

    Attributes:
        jobs: State to number of jobs; every state is there.
        oldest_queued_s: How long the job has waited that waits longest.
        users: Name to what was done for them, oldest user first, ``NOBODY`` last.
        open: State to number of trials that are not final.
        workers: ``ready`` to how many workers running studies have, busy or not,
            ``missing`` to how many they wait for, ``aside`` to how many nodes they do
            without.
        busy: Workers that have something to do.
    """

    jobs: Mapping[str, int]
    oldest_queued_s: float
    users: Mapping[str, Tally]
    open: Mapping[str, int]
    workers: Mapping[str, int]
    busy: int


@dataclass(slots=True)
class _Known:
    """What is known of a study: for good, and as of the last look."""

    owner: str
    mark: tuple[Any, ...] = ()
    first: int = 0
    settled: Tally = field(default_factory=Tally)
    moving: Tally = field(default_factory=Tally)
    tokens: float = 0.0
    items: int = 0
    open: Counter[str] = field(default_factory=Counter)
    busy: frozenset[str] = frozenset()
    last_event: int = 0
    gpus: dict[str, float] = field(default_factory=dict)
    workers: Counter[str] = field(default_factory=Counter)

    def total(self) -> Tally:
        made = Tally(items=self.items, tokens=self.tokens)
        made.add(self.settled)
        made.add(self.moving)
        return made


class Meter:
    """Reads the numbers of a database; one thread's at a time.

    What studies had done before they were deleted stays counted while it lives.

    Args:
        database: An open one; closed by ``close``.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._studies: dict[tuple[int, float], _Known] = {}
        self._gone: defaultdict[str, Tally] = defaultdict(Tally)
        self._last_block = 0
        self._tokens: Counter[int] = Counter()

    def __repr__(self) -> str:
        return f"Meter({self._database.shown!r})"

    def close(self) -> None:
        """Close the database; idempotent."""
        self._database.close()

    def read(self) -> Reading:
        """Return how the service stands, in one snapshot.

        Raises:
            StoreError: The database cannot be read.
        """
        with self._database.reading() as connection:
            names = connection.scalars(sa.select(user.c.name).order_by(user.c.id)).all()
            self._look(connection)
            tokens = self._read_tokens(connection)
            for (number, _), known in self._studies.items():
                known.tokens = tokens[number]
            jobs, oldest_s = _jobs(connection)
            return Reading(
                jobs=jobs,
                oldest_queued_s=oldest_s,
                users=self._by_user(names, tokens[0]),
                open=sum((k.open for k in self._studies.values()), Counter()),
                workers=sum((k.workers for k in self._studies.values()), Counter()),
                busy=sum(len(k.busy) for k in self._studies.values()),
            )

    def _by_user(self, names: Iterable[str], of_nobody: float) -> dict[str, Tally]:
        users = {name: Tally() for name in names}
        users[NOBODY] = Tally(tokens=of_nobody)
        totals = [(known.owner, known.total()) for known in self._studies.values()]
        for owner, tally in (*self._gone.items(), *totals):
            users.setdefault(owner, Tally()).add(tally)
        return users

    def _look(self, connection: sa.Connection) -> None:
        """Read the studies in which something may have moved; forget those gone."""
        there = set()
        for row in connection.execute(_STUDIES):
            key = (row.id, row.created)
            there.add(key)
            if key not in self._studies:
                self._studies[key] = _Known(_owner(connection, row.name))
            known = self._studies[key]
            known.items = row.n_items
            mark = (row.lease_epoch, row.n_items, row.spent_s, row.finished, row.last)
            if row.is_led or mark != known.mark:
                _hear(connection, row, known)
                _read(connection, row, known)
                # One that is led is read again, and once more when it is not.
                known.mark = () if row.is_led else mark
        for key in self._studies.keys() - there:
            gone = self._studies.pop(key)
            self._gone[gone.owner].add(gone.total())
            del self._tokens[key[0]]

    def _read_tokens(self, connection: sa.Connection) -> Counter[int]:
        """Return the tokens of every study's outcomes, under its key."""
        last = connection.scalar(sa.select(sa.func.max(outcome_block.c.id))) or 0
        self._last_block = min(self._last_block, last)  # SQLite draws numbers again
        key = {"after": self._last_block}
        # Rows may become visible in another order than their numbers were drawn.
        fresh = connection.scalar(_FRESH, key)
        settled_to = last + 1 if fresh is None else fresh
        recent: Counter[int] = Counter()
        for row in connection.execute(_TOKENS, {**key, "to": settled_to}):
            counted = self._tokens if row.is_settled else recent
            counted[row.charged_to or 0] += row.tokens or 0
        self._last_block = settled_to - 1
        return self._tokens + recent


def open_meter(url: str) -> Meter:
    """Open the meter of the database behind a URL; see ``open_store``."""
    return Meter(Database(url, create=False))


_LAST = sa.select(sa.func.max(generation.c.number)).where(
    generation.c.study_id == study.c.id
)
_STUDIES = sa.select(
    study.c.id,
    study.c.created,
    study.c.n_items,
    study.c.spent_s,
    study.c.finished,
    study.c.lease_epoch,
    sa.func.coalesce(study.c.lease_until > NOW, sa.false()).label("is_led"),
    _LAST.scalar_subquery().label("last"),
    study.c.name,
)
_AFTER = outcome_block.c.id > sa.bindparam("after")
_FRESH = sa.select(sa.func.min(outcome_block.c.id)).where(
    # The time is asked for once, not for every row.
    _AFTER,
    outcome_block.c.created >= sa.select(NOW - _SETTLED_S).scalar_subquery(),
)
_IS_SETTLED_BLOCK = (outcome_block.c.id < sa.bindparam("to")).label("is_settled")
_TOKENS = (
    sa.select(
        outcome_block.c.charged_to,
        _IS_SETTLED_BLOCK,
        sa.func.sum(
            outcome_block.c.n_items * json_number(outcome_block.c.means, "tokens")
        ).label("tokens"),
    )
    .where(_AFTER)
    .group_by(outcome_block.c.charged_to, "is_settled")
)
_NEWCOMERS = (
    sa.select(event.c.id, event.c.data)
    .where(event.c.study_id == sa.bindparam("study"), event.c.kind == _NEWCOMER)
    .where(event.c.id > sa.bindparam("after"))
    .order_by(event.c.id)
)
_ROSTER = (
    sa.select(event.c.data)
    .where(event.c.study_id == sa.bindparam("study"), event.c.kind == ROSTER)
    .order_by(event.c.id.desc())
    .limit(1)
)


def _of_trial(table: sa.Table) -> sa.ColumnElement[bool]:
    of_study = table.c.study_id == trial.c.study_id
    return of_study & (table.c.trial == trial.c.number)


_HERE = (trial.c.study_id == sa.bindparam("study")) & (
    trial.c.generation >= sa.bindparam("first")
)
_IS_SETTLED = (trial.c.generation < sa.bindparam("to")).label("is_settled")
_TRIALS = (
    sa.select(
        _IS_SETTLED,
        trial.c.state,
        sa.func.count().label("n"),
        sa.func.sum(sa.case((trial.c.reused, 1), else_=0)).label("reused"),
        *(
            sa.func.sum(json_number(trial.c.seconds, name)).label(name)
            for name in PARTS
        ),
    )
    .where(_HERE)
    .group_by("is_settled", trial.c.state)
)
_OF_TRIAL = (attempt.c.study_id == trial.c.study_id) & (
    attempt.c.trial == trial.c.number
)
_FAULTS = (
    sa.select(_IS_SETTLED, attempt.c.end, attempt.c.cause, sa.func.count().label("n"))
    .join_from(trial, attempt, _of_trial(attempt))
    .where(_HERE, attempt.c.end.in_(end.value for end in _BLAME))
    .group_by("is_settled", attempt.c.end, attempt.c.cause)
)


def _spans(table: sa.Table, *further: sa.ColumnElement[bool]) -> sa.Select[Any]:
    """Add up what workers did; ``n_open`` is what they are still at."""
    took = table.c.ended - table.c.began
    return (
        sa.select(
            _IS_SETTLED,
            table.c.worker,
            sa.func.sum(sa.case((took > 0, took), else_=0.0)).label("seconds"),
            sa.func.sum(sa.case((table.c.ended.is_(None), 1), else_=0)).label("n_open"),
        )
        .join_from(trial, table, _of_trial(table))
        .where(_HERE, *further)
        .group_by("is_settled", table.c.worker)
    )


_SHARES = _spans(part)
_WHOLE = _spans(
    attempt,
    ~sa.exists().where(
        part.c.study_id == attempt.c.study_id,
        part.c.trial == attempt.c.trial,
        part.c.attempt == attempt.c.attempt,
    ),
)


def _owner(connection: sa.Connection, name: str) -> str:
    """Return who submitted a study, or the study that it is a stage of."""
    parts = name.split(".")
    names = [".".join(parts[:n]) for n in range(1, len(parts) + 1)]
    found = sa.select(user.c.name).join(job, job.c.user_id == user.c.id)
    owner: str | None = connection.scalar(found.where(job.c.study.in_(names)))
    return owner or NOBODY


def _hear(connection: sa.Connection, found: Any, known: _Known) -> None:
    """Read what a study's coordinator told of its workers."""
    key = {"study": found.id, "after": known.last_event}
    for row in connection.execute(_NEWCOMERS, key):
        known.last_event = row.id
        told = _object(row.data)
        known.gpus[str(told.get("worker"))] = _numbers(row.data).get("gpus", 0.0)
    known.workers = Counter()
    if found.is_led:
        text = connection.scalar(_ROSTER, {"study": found.id})
        roster = {name: int(number) for name, number in _numbers(text).items()}
        up, wanted = roster.get("up", 0), roster.get("wanted", 0)
        known.workers.update(
            ready=up, missing=max(0, wanted - up), aside=roster.get("n_aside", 0)
        )


def _read(connection: sa.Connection, found: Any, known: _Known) -> None:
    """Read what may have changed of a study, and settle what no longer can."""
    # Nothing is started in a generation that another follows; parts of its trials may
    # still end.
    settled_to = max(known.first, (found.last or 0) - 1)
    key = {"study": found.id, "first": known.first, "to": settled_to}
    tallies = {True: Tally(), False: Tally()}
    known.open = Counter()
    for row in connection.execute(_TRIALS, key):
        if row.state in _FINAL:
            tally = tallies[bool(row.is_settled)]
            tally.trials[row.state] += row.n
            tally.reused += row.reused
            tally.seconds.update({name: getattr(row, name) or 0.0 for name in PARTS})
        else:
            known.open[row.state] += row.n
    for row in connection.execute(_FAULTS, key):
        if row.cause in _CAUSES:
            faults = tallies[bool(row.is_settled)].faults
            faults[row.cause, _BLAME[AttemptEnd(row.end)]] += row.n
    at_work = set()
    for query in (_SHARES, _WHOLE):
        for row in connection.execute(query, key):
            tally = tallies[bool(row.is_settled)]
            tally.worker_s += row.seconds
            tally.gpu_s += row.seconds * known.gpus.get(row.worker, 0.0)
            if row.n_open:
                at_work.add(row.worker)
    known.busy = frozenset(at_work) if found.is_led else frozenset()
    known.settled.add(tallies[True])
    known.moving = tallies[False]
    known.first = settled_to


def _jobs(connection: sa.Connection) -> tuple[dict[str, int], float]:
    query = sa.select(
        job.c.state,
        sa.func.count().label("n"),
        (NOW - sa.func.min(job.c.changed)).label("s"),
    ).group_by(job.c.state)
    found = {row.state: row for row in connection.execute(query)}
    counts = {s.value: found[s].n if s in found else 0 for s in JobState}
    queued = found.get(JobState.QUEUED.value)
    return counts, 0.0 if queued is None else max(0.0, queued.s)


def _numbers(text: str | None) -> dict[str, float]:
    """Read the numbers of a JSON object; of a list, how long it is."""
    found = _object(text)
    sized = {k: len(v) if isinstance(v, list) else v for k, v in found.items()}
    return {key: float(value) for key, value in sized.items() if is_number(value)}


def _object(text: str | None) -> Mapping[str, Any]:
    try:
        return {} if text is None else mapping("Numbers", text)
    except StoreError:
        return {}
