"""How a running study stands: counts, the best per objective, the front, the pace."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from evomerge.core.study import Budget, Constraint, Objective, objective_values
from evomerge.core.trial import Precision, Record, TrialState
from evomerge.core.work import Roster
from evomerge.strategies.ranks import losses

SLOW_SHARE = 0.2
"""Share of a generation's scoring time that asking for it may take."""
NOTICED_S = 0.5
"""Below this nobody minds, however fast the scoring."""
NO_ROSTER = Roster(0, 0)


@dataclass(frozen=True, slots=True)
class Standing:
    """A feasible scored trial.

    Attributes:
        values: Its objectives, as measured.
        losses: The same, all better when smaller.
        errors: The standard error of each value; None where it is not known.
        precision: Of the scores; None where it was not remembered.
        is_selected: The search chose it by these values, so they flatter it.
    """

    number: int
    label: str | None
    values: tuple[float, ...]
    losses: tuple[float, ...]
    errors: tuple[float | None, ...] = ()
    precision: Precision | None = None
    is_selected: bool = False


@dataclass(frozen=True, slots=True)
class Progress:
    """What a person watching wants to know.

    Attributes:
        generation: The one at work.
        done: Candidates finished, baselines not counted.
        failed: Of these, how many failed or were quarantined.
        reused: Trials that cost nothing because their outcomes were known.
        running: Trials being scored.
        workers: Workers that are ready and welcome.
        roster: How many of them there are to be, and what they wait for.
        allowed: Candidates that the budget allows; None for any number.
        n_baselines: Trials of generation 0 that are not over.
        best: The best standing of each objective, in order; None before the first. Of
            those that answered all items.
        leader: Where candidates answer some: the best of the last generation, by the
            first objective. What it answered, others did not.
        n_finals: Candidates that were scored on all items at the end.
        front_size: Feasible trials that no other dominates.
        items_per_s: Items scored per second since the first worker began.
        seconds: Wall time of this run.
        trial_s: Wall seconds a trial takes, over all workers together, since the first
            worker began; None before one has ended in this run.
        left_s: Estimated seconds until the budget is used; None when unknown.
    """

    generation: int
    done: int
    failed: int
    reused: int
    running: int
    workers: int
    best: tuple[Standing | None, ...]
    front_size: int
    items_per_s: float
    seconds: float
    trial_s: float | None
    left_s: float | None
    roster: Roster = NO_ROSTER
    allowed: int | None = None
    n_baselines: int = 0
    leader: Standing | None = None
    n_finals: int = 0


@dataclass(frozen=True, slots=True)
class Ahead:
    """What of a search is still to be done.

    Attributes:
        budget: When it ends.
        n_items: Items of a trial; 0 if that is not known.
        n_baselines: Trials of generation 0 that are not over.
    """

    budget: Budget
    n_items: int = 0
    n_baselines: int = 0


class Scoreboard:
    """Keeps the standing of a study, a trial at a time; cost does not grow."""

    def __init__(
        self,
        objectives: Sequence[Objective],
        constraints: Sequence[Constraint],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._objectives = tuple(objectives)
        self._constraints = tuple(constraints)
        self._clock = clock
        self._began = clock()
        self._front: dict[tuple[float, ...], list[Standing]] = {}  # by their losses
        self._front_size = 0
        self._best: list[Standing | None] = [None] * len(self._objectives)
        self._at_work: float | None = None  # since when
        self._done = self._failed = self._reused = self._items = 0
        self._ended = self._scored = 0  # trials of this run, baselines among them
        self._n_finals = 0
        self._led: tuple[int, Standing | None] = (0, None)  # generation and leader
        self.baselines: dict[str, Mapping[str, float]] = {}

    @property
    def front(self) -> tuple[Standing, ...]:
        """The feasible non-dominated trials, by number."""
        every = (standing for equal in self._front.values() for standing in equal)
        return tuple(sorted(every, key=lambda standing: standing.number))

    @property
    def best(self) -> tuple[Standing | None, ...]:
        """The best standing of each objective; None before the first."""
        return tuple(self._best)

    @property
    def leader(self) -> Standing | None:
        """The best of the last generation that answered some of the items."""
        return self._led[1]

    def begin_work(self) -> None:
        """Note that a worker is given something: what came before was starting up."""
        if self._at_work is None:
            self._at_work = self._clock()

    def add_items(self, n_items: int) -> None:
        """Count freshly scored items."""
        self._items += n_items

    def add(self, trial: Record, *, is_new: bool = True) -> None:
        """Count a finished trial; ``is_new`` is False for one from an earlier run."""
        self._ended += is_new
        self._scored += is_new and not trial.reused
        self._n_finals += trial.final_of is not None
        if trial.is_proposed:
            self._done += 1
            self._failed += trial.state is not TrialState.SCORED
        self._reused += trial.reused
        if trial.scores is None:
            return
        if trial.label is not None:
            self.baselines[trial.label] = trial.scores
        if trial.is_partial:
            self._lead(trial)
        elif is_feasible(self._constraints, trial.scores, self.baselines):
            self._rank(self._standing(trial, trial.scores))

    def _standing(self, trial: Record, scores: Mapping[str, float]) -> Standing:
        return Standing(
            trial.number,
            trial.title,
            objective_values(self._objectives, scores),
            losses(self._objectives, scores),
            errors_of(trial, self._objectives),
            trial.precision,
            trial.is_selected,
        )

    def _lead(self, trial: Record) -> None:
        """Compare a trial with those of its generation, which answered the same."""
        number, leader = self._led
        if number != trial.generation:
            leader = None
        # Bounds relative to a baseline are those on other items.
        if is_feasible(self._constraints, trial.scores or {}, {}):
            new = self._standing(trial, trial.scores or {})
            if leader is None or new.losses[0] < leader.losses[0]:
                leader = new
        self._led = (trial.generation, leader)

    def _rank(self, new: Standing) -> None:
        for k, best in enumerate(self._best):
            if best is None or new.losses[k] < best.losses[k]:
                self._best[k] = new
        if new.losses not in self._front:
            if any(_dominates(old, new.losses) for old in self._front):
                return
            for old in [old for old in self._front if _dominates(new.losses, old)]:
                self._front_size -= len(self._front.pop(old))
            self._front[new.losses] = []
        self._front[new.losses].append(new)
        self._front_size += 1

    def progress(
        self,
        *,
        generation: int,
        running: int,
        workers: int,
        roster: Roster = NO_ROSTER,
        ahead: Ahead,
    ) -> Progress:
        """Return how the study stands now.

        Args:
            generation: The one at work.
            running: Trials being scored.
            workers: Workers that are ready and welcome.
            roster: How many there are to be.
            ahead: What is still to be done.
        """
        now = self._clock()
        seconds = now - self._began
        at_work = seconds if self._at_work is None else now - self._at_work
        begun = self._begun(ahead.n_items, running)
        trial_s = at_work / (self._ended + begun) if self._ended else None
        return Progress(
            generation=generation,
            done=self._done,
            failed=self._failed,
            reused=self._reused,
            running=running,
            workers=workers,
            best=tuple(self._best),
            front_size=self._front_size,
            items_per_s=self._items / at_work if at_work > 0 else 0.0,
            seconds=seconds,
            trial_s=trial_s,
            left_s=self._left(ahead, seconds, trial_s, begun),
            roster=roster,
            allowed=ahead.budget.trials,
            n_baselines=ahead.n_baselines,
            leader=self.leader,
            n_finals=self._n_finals,
        )

    def _begun(self, n_items: int, running: int) -> float:
        """Return how many trials what is scored of the running ones comes to."""
        if not n_items:
            return 0.0
        return min(max(self._items / n_items - self._scored, 0.0), float(running))

    def _left(
        self, ahead: Ahead, seconds: float, trial_s: float | None, begun: float
    ) -> float | None:
        budget, left = ahead.budget, list[float]()
        if budget.trials is not None and trial_s is not None:
            n_trials = budget.trials - self._done + ahead.n_baselines - begun
            left.append(n_trials * trial_s)
        if budget.seconds is not None:
            left.append(budget.seconds - seconds)
        return max(0.0, min(left)) if left else None


def errors_of(
    trial: Record, objectives: Sequence[Objective]
) -> tuple[float | None, ...]:
    """Return the standard error of each objective; None where it is not known."""
    if trial.precision is None or trial.scores is None:
        return (None,) * len(objectives)
    errors = trial.precision.errors
    return tuple(goal.error(trial.scores, errors) for goal in objectives)


def is_feasible(
    constraints: Sequence[Constraint],
    scores: Mapping[str, float],
    baselines: Mapping[str, Mapping[str, float]],
) -> bool:
    """Tell whether scores keep every bound.

    A bound relative to a baseline holds nothing back before that is scored.
    """
    return all(
        constraint.violation(scores, baselines) <= 0
        for constraint in constraints
        if constraint.relative_to is None or constraint.relative_to in baselines
    )


def is_outgrown(asked_s: float, n_candidates: int, trial_s: float) -> bool:
    """Tell whether a strategy has become too slow for the study it serves.

    Args:
        asked_s: Seconds it took to ask for a generation.
        n_candidates: Candidates in it.
        trial_s: Wall seconds a trial takes, over all workers together.
    """
    return asked_s > max(NOTICED_S, SLOW_SHARE * trial_s * n_candidates)


def _dominates(a: tuple[float, ...], b: tuple[float, ...]) -> bool:
    """Tell whether losses are as small in everything, and differ."""
    return a != b and all(mine <= theirs for mine, theirs in zip(a, b, strict=True))
