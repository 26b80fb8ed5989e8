"""Read what the database holds of a study; nothing heavy is loaded."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from evomerge.api.housekeeping import opened_study, state_of
from evomerge.core.study import Constraint, Direction, Objective
from evomerge.core.trial import Precision, Record, Repeats, TrialState
from evomerge.core.work import NODE_SET_ASIDE, ROSTER, Roster
from evomerge.errors import SchemaError
from evomerge.specs.completing.measures import goals
from evomerge.store.base import Overview, Store, StoredStudy

if TYPE_CHECKING:
    from evomerge.search.scoreboard import Standing  # loads numpy

REPORT_OPENED = "report_opened"
"""The kind of event that remembers an opening of held-out items."""


@dataclass(frozen=True, slots=True)
class Best:
    """The best feasible trial of an objective, by what the search saw.

    Attributes:
        direction: Which way the objective is better.
        error: Standard error of the value; None where it is not known.
        n_items: Search items that it is over; None where that was not remembered.
        of_items: How many there are.
        is_selected: The search chose by these values, so they flatter the best; those
            of baselines are as they are.
    """

    objective: str
    value: float
    trial: int
    label: str | None
    direction: Direction
    error: float | None = None
    n_items: int | None = None
    of_items: int | None = None
    is_selected: bool = False


@dataclass(frozen=True, slots=True)
class Standings:
    """Front and best of a study.

    Attributes:
        front: Numbers of the feasible non-dominated trials.
        leader: The best of the last generation that answered some of the items, by the
            first objective.
    """

    front: tuple[int, ...]
    best: tuple[Best, ...]
    leader: Best | None = None

    @property
    def front_size(self) -> int:
        """Number of trials on the front."""
        return len(self.front)


@dataclass(frozen=True, slots=True)
class Status:
    """How a study stands.

    Attributes:
        state: Who searches it, ``stopped``, or why the search ended.
        counts: Trial state to number of trials.
        causes: Cause of failure, in words, to number of trials that ended by it.
        faults: Attempts that machines spoilt, whatever became of their trials.
        used: Budget used, in words.
        allowed: How many trials the budget allows; None for any number.
        openings: How often the held-out items were scored.
        repeats: How often the strategy proposed a merge again.
        workers: How many workers are up and what is missing, in words; None when nobody
            searches.
        aside: Nodes that its search has set aside, each with its reason.
        leader: Where generations answer some of the items, the best of the last one by
            the first objective; not comparable with others.
    """

    name: str
    state: str
    created: str
    generation: int
    counts: Mapping[str, int]
    causes: Mapping[str, int]
    faults: int
    used: str
    trials: int
    allowed: int | None
    items: int
    seconds: float
    front_size: int
    best: tuple[Best, ...]
    openings: int
    repeats: Repeats
    workers: str | None
    aside: tuple[str, ...]
    leader: Best | None


@dataclass(frozen=True, slots=True)
class FrontRow:
    """A point of the front: objective values on the items the search saw.

    Attributes:
        directions: Objective to which way it is better.
        errors: Objective to the standard error of its value, where that is known.
        n_items: Search items that the values are over; None if not remembered.
        of_items: How many there are.
        is_selected: The search chose by these values, so they flatter the best.
    """

    number: int
    label: str | None
    recipe: str
    point: Mapping[str, Any] | None
    values: Mapping[str, float]
    scores: Mapping[str, float]
    directions: Mapping[str, Direction]
    errors: Mapping[str, float]
    n_items: int | None
    of_items: int | None
    is_selected: bool


_FRONT = tuple(field.name for field in fields(FrontRow))


@dataclass(frozen=True, slots=True)
class TrialRow:
    """One trial.

    Attributes:
        recipe: Digest of its recipe.
        feasible: It keeps every bound of the study; None before it is scored on all
            items.
        values: Objective to value; empty before it is scored.
        directions: Objective to which way it is better.
        scores: ``task/metric`` to mean over the search items that it answered.
        errors: Objective to the standard error of its value, where that is known.
        n_items: Search items that it answered; None if not remembered or not scored.
            Values over fewer than all compare within a generation only.
        of_items: How many there are.
        is_selected: The search chooses by these values, so they flatter the best.
        attempt: How often it was started.
        faults: Attempts that machines spoilt; those that ended because a coordinator
            died are not among them.
        failure: Cause, blame and words, if its last attempt failed.
    """

    number: int
    generation: int
    state: str
    recipe: str
    label: str | None
    point: Mapping[str, Any] | None
    feasible: bool | None
    values: Mapping[str, float]
    directions: Mapping[str, Direction]
    scores: Mapping[str, float]
    errors: Mapping[str, float]
    n_items: int | None
    of_items: int | None
    is_selected: bool
    attempt: int
    faults: int
    worker: str | None
    seconds: Mapping[str, float] | None
    reused: bool
    failure: str | None


def status(name: str, *, db: str) -> Status:
    """Return how a study stands.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    with opened_study(db, name) as (store, stored):
        objectives, constraints = goals_of(stored)
        every = store.history(stored.id)
        standings = _standings(every, objectives, constraints)
        (entry,) = store.overview(stored.id)
        usage = entry.usage
        roster, aside = _roster(store, entry)
        failures = [t.failure for t in every if t.state.is_final and t.failure]
        return Status(
            name=name,
            state=state_of(entry),
            created=stored.created,
            generation=max((t.generation for t in every), default=0),
            counts=_counts(every),
            causes=dict(Counter(f.cause.words for f in failures)),
            faults=sum(t.faults for t in every),
            used=f"{usage.trials} trials, {usage.items} items, {usage.seconds:.0f} s"
            f" (allowed: {_allowed(stored)})",
            trials=usage.trials,
            allowed=stored.allowance.get("budget", {}).get("trials"),
            items=usage.items,
            seconds=usage.seconds,
            front_size=standings.front_size,
            best=standings.best,
            openings=len(store.events(stored.id, REPORT_OPENED)),
            repeats=repeats_of(every),
            workers=None if roster is None else _workers(roster),
            aside=aside,
            leader=standings.leader,
        )


def front(name: str, *, db: str) -> tuple[FrontRow, ...]:
    """Return the feasible non-dominated trials, by number.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    with opened_study(db, name) as (store, stored):
        rows, standings = rows_of(store, stored)
    by_number = {row.number: row for row in rows}
    return tuple(
        FrontRow(**{key: getattr(by_number[number], key) for key in _FRONT})
        for number in standings.front
    )


def trials(name: str, *, db: str) -> tuple[TrialRow, ...]:
    """Return every trial of a study, by number.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    with opened_study(db, name) as (store, stored):
        objectives, constraints = goals_of(stored)
        return _rows(store.history(stored.id), objectives, constraints)


def rows_of(
    store: Store, stored: StoredStudy
) -> tuple[tuple[TrialRow, ...], Standings]:
    """Return every trial of a study that is open, by number, and its standings."""
    objectives, constraints = goals_of(stored)
    every = store.history(stored.id)
    rows = _rows(every, objectives, constraints)
    return rows, _standings(every, objectives, constraints)


def _rows(
    every: Sequence[Record],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> tuple[TrialRow, ...]:
    baselines = _baselines(every)
    directions = {o.name: o.direction for o in objectives}
    return tuple(
        TrialRow(
            number=trial.number,
            generation=trial.generation,
            state=trial.state.value,
            recipe=trial.recipe,
            label=trial.title,
            point=trial.point,
            feasible=_is_feasible(trial, constraints, baselines),
            values=_values(trial, objectives),
            directions=directions,
            scores=trial.scores or {},
            errors=_errors(trial, objectives),
            **_of_items(trial.precision),
            is_selected=trial.is_selected,
            attempt=trial.attempt,
            faults=trial.faults,
            worker=trial.worker,
            seconds=trial.seconds,
            reused=trial.reused,
            failure=None
            if trial.failure is None or trial.state is TrialState.SCORED
            else str(trial.failure),
        )
        for trial in every
    )


def _is_feasible(
    trial: Record,
    constraints: Sequence[Constraint],
    baselines: Mapping[str, Mapping[str, float]],
) -> bool | None:
    if trial.scores is None or trial.is_partial:
        return None
    if not constraints:
        return True
    from evomerge.search.scoreboard import is_feasible  # loads numpy

    return is_feasible(constraints, trial.scores, baselines)


def _baselines(every: Sequence[Record]) -> dict[str, Mapping[str, float]]:
    """Return the scores that bounds may be relative to."""
    return {t.label: t.scores for t in every if t.label and t.scores is not None}


def read_bests(
    store: Store,
    stored: StoredStudy,
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> Standings:
    """Return front and best of a study that is open."""
    return _standings(store.history(stored.id), objectives, constraints)


def _roster(store: Store, entry: Overview) -> tuple[Roster | None, tuple[str, ...]]:
    """Return who works for a study now, and which nodes must not."""
    noted = store.events(entry.study.id, ROSTER) if entry.holder is not None else ()
    if not noted:
        return None, ()
    roster = Roster(**noted[-1].data)
    gone = store.events(entry.study.id, NODE_SET_ASIDE)
    last = gone[len(gone) - roster.n_aside :]
    return roster, tuple(
        f"{e.data['host']} ({e.data['ip']}): {e.data['reason']}" for e in last
    )


def _workers(roster: Roster) -> str:
    return roster.missing if roster.up < roster.wanted else f"{roster.up} up"


def repeats_of(every: Sequence[Record]) -> Repeats:
    """Return how often the strategy proposed a merge again."""
    return Repeats.of(trial.recipe for trial in every if trial.is_proposed)


def goals_of(
    stored: StoredStudy,
) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Read the objectives and constraints of a recorded study; no source is read."""
    try:
        return goals(stored.config)
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        raise SchemaError(
            f"The configuration of study {stored.name!r} cannot be read ({error!r}); "
            "was it written by another version of evomerge?"
        ) from error


def _standings(
    every: Sequence[Record],
    objectives: Sequence[Objective],
    constraints: Sequence[Constraint],
) -> Standings:
    from evomerge.search.scoreboard import Scoreboard  # loads numpy

    board = Scoreboard(objectives, constraints)
    # Baselines first: a bound may be relative to any of them.
    board.baselines.update(_baselines(every))
    for trial in every:
        if trial.state.is_final:
            board.add(trial, is_new=False)
    best = tuple(
        _best(standing, k, objective)
        for k, (objective, standing) in enumerate(
            zip(objectives, board.best, strict=True)
        )
        if standing is not None
    )
    leader = None if board.leader is None else _best(board.leader, 0, objectives[0])
    return Standings(tuple(s.number for s in board.front), best, leader)


def _best(standing: Standing, k: int, objective: Objective) -> Best:
    return Best(
        objective=objective.name,
        value=standing.values[k],
        trial=standing.number,
        label=standing.label,
        direction=objective.direction,
        error=standing.errors[k],
        **_of_items(standing.precision),
        is_selected=standing.is_selected,
    )


def _values(trial: Record, objectives: Sequence[Objective]) -> dict[str, float]:
    if trial.scores is None:
        return {}
    return {o.name: o.value(trial.scores) for o in objectives}


def _errors(trial: Record, objectives: Sequence[Objective]) -> dict[str, float]:
    if trial.scores is None or trial.precision is None:
        return {}
    errors = trial.precision.errors
    by_item = [o for o in objectives if o.by_item]
    found = {o.name: o.error(trial.scores, errors) for o in by_item}
    return {name: error for name, error in found.items() if error is not None}


def _of_items(precision: Precision | None) -> dict[str, int | None]:
    if precision is None:
        return {"n_items": None, "of_items": None}
    return {"n_items": precision.n_items, "of_items": precision.of_items}


def _counts(every: Sequence[Record]) -> dict[str, int]:
    found = Counter(trial.state.value for trial in every)
    return {state.value: found[state.value] for state in TrialState}


def _allowed(stored: StoredStudy) -> str:
    budget = stored.allowance.get("budget", {})
    limits = [f"{value:g} {key}" for key, value in budget.items() if value is not None]
    return ", ".join(limits) or "no limit"
