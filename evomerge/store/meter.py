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
from evomerge.store.tables.dialects import NOW
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
        recent: Counter[int] = Counter()
        is_settled = True
        found = connection.execute(_BLOCKS, {"after": self._last_block})
        for row in found.yield_per(10_000):
            tokens = row.n_items * _numbers(row.means).get("tokens", 0.0)
            # Rows may become visible in another order than their numbers were drawn.
            is_settled = is_settled and row.is_old
            (self._tokens if is_settled else recent)[row.charged_to or 0] += tokens
            if is_settled:
                self._last_block = row.id
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
_BLOCKS = (
    sa.select(
        outcome_block.c.id,
        outcome_block.c.n_items,
        outcome_block.c.means,
        outcome_block.c.charged_to,
        (outcome_block.c.created < NOW - _SETTLED_S).label("is_old"),
    )
    .where(outcome_block.c.id > sa.bindparam("after"))
    .order_by(outcome_block.c.id)
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
_HERE = (trial.c.study_id == sa.bindparam("study")) & (
    trial.c.generation >= sa.bindparam("first")
)
_TRIALS = sa.select(
    trial.c.generation, trial.c.state, trial.c.reused, trial.c.seconds
).where(_HERE)
_ATTEMPTS = (
    sa.select(
        trial.c.generation,
        trial.c.number,
        attempt.c.attempt,
        attempt.c.worker,
        attempt.c.began,
        attempt.c.ended,
        attempt.c.end,
        attempt.c.cause,
    )
    .join_from(
        trial,
        attempt,
        (attempt.c.study_id == trial.c.study_id) & (attempt.c.trial == trial.c.number),
    )
    .where(_HERE)
)
_SHARES = (
    sa.select(
        trial.c.generation,
        trial.c.number,
        part.c.attempt,
        part.c.worker,
        part.c.began,
        part.c.ended,
    )
    .join_from(
        trial,
        part,
        (part.c.study_id == trial.c.study_id) & (part.c.trial == trial.c.number),
    )
    .where(_HERE)
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
    key = {"study": found.id, "first": known.first}
    tallies = {True: Tally(), False: Tally()}
    known.open = Counter()
    for row in connection.execute(_TRIALS, key):
        if row.state in _FINAL:
            _count_trial(tallies[row.generation < settled_to], row)
        else:
            known.open[row.state] += 1
    shares = connection.execute(_SHARES, key).all()
    shared = {(row.number, row.attempt) for row in shares}
    attempts = connection.execute(_ATTEMPTS, key).all()
    whole = [row for row in attempts if (row.number, row.attempt) not in shared]
    for one in attempts:
        if one.end in _BLAME and one.cause in _CAUSES:
            faults = tallies[one.generation < settled_to].faults
            faults[one.cause, _BLAME[AttemptEnd(one.end)]] += 1
    for span in (*shares, *whole):
        _count_time(tallies[span.generation < settled_to], span, known.gpus)
    at_work = {row.worker for row in (*shares, *whole) if row.ended is None}
    known.busy = frozenset(at_work) if found.is_led else frozenset()
    known.settled.add(tallies[True])
    known.moving = tallies[False]
    known.first = settled_to


def _count_trial(tally: Tally, row: Any) -> None:
    tally.trials[row.state] += 1
    tally.reused += bool(row.reused)
    took = _numbers(row.seconds)
    tally.seconds.update({name: took.get(name, 0.0) for name in PARTS})


def _count_time(tally: Tally, row: Any, gpus: Mapping[str, float]) -> None:
    if row.began is None or row.ended is None:
        return
    took_s = max(0.0, row.ended - row.began)
    tally.worker_s += took_s
    tally.gpu_s += took_s * gpus.get(row.worker, 0.0)


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
