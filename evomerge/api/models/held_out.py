"""Open the held-out items: score a trial and the baselines on what no search saw.

Every opening is recorded, with the p-values it produced, because comparisons made on
the same items belong to one family.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from evomerge.api.resolving import setup_of
from evomerge.api.results.reading import REPORT_OPENED
from evomerge.core.scoring_protocol import ItemRole, Outcome, TaskDescription, pooled
from evomerge.core.study import Objective
from evomerge.core.trial import Trial
from evomerge.errors import CandidateError, ExportError, StoreError
from evomerge.export.bounds import HeldBound, held_bounds
from evomerge.export.report import BaselineTable, Contender, baseline_tables, p_values
from evomerge.scoring.evaluator import Evaluator
from evomerge.specs.resolved import ResolvedStudy
from evomerge.steps import Step, step
from evomerge.store.base import Store, StoredStudy

COMPARED = "report_compared"
"""The kind of event that remembers the p-values an opening produced."""


@dataclass(frozen=True, slots=True)
class Case:
    """A trial of a study in an open store."""

    store: Store
    stored: StoredStudy
    study: ResolvedStudy
    trial: Trial

    def baselines(self) -> tuple[list[Trial], list[Trial]]:
        """Return generation 0: the other merges, and those that are the trial's own."""
        digest = self.trial.candidate.recipe.digest
        baselines: list[Trial] = []
        same: list[Trial] = []
        for one in self.store.trials(self.stored.id, 0):
            (same if one.candidate.recipe.digest == digest else baselines).append(one)
        return baselines, same


@dataclass(frozen=True, slots=True)
class Judged:
    """How a trial fares on held-out items.

    Attributes:
        tables: One for each objective.
        unscored: Label of each baseline that could not be scored, to the reason.
        openings: How often the held-out items have been scored, this time included.
        bounds: The study's constraints, tested on them.
    """

    tables: tuple[BaselineTable, ...]
    unscored: Mapping[str, str]
    openings: int
    bounds: tuple[HeldBound, ...] = ()


def judged_on(study: ResolvedStudy) -> tuple[Objective, ...]:
    """Return what candidates are compared by on held-out items.

    A cost is no matter of items. Where all objectives are such, the bounds that tasks
    must keep are what can be shown to hold.
    """
    bounded = [constraint.objective for constraint in study.constraints]
    goals = [goal for goal in study.objectives if goal.by_item]
    goals = goals or [goal for goal in bounded if goal.by_item]
    return tuple({goal.name: goal for goal in goals}.values())


def judge(case: Case, cache_dir: Path) -> Judged:
    """Score the trial and generation 0 on held-out items, and compare.

    Raises:
        CandidateError: The trial itself cannot be scored.
        ExportError: Items or protocol are no longer those of the search.
    """
    store, stored, study, trial = case.store, case.stored, case.study, case.trial
    baselines, same = case.baselines()
    unscored: dict[str, str] = {}
    chosen, *scored = answers(case, (trial, *baselines), cache_dir, unscored)
    earlier = [
        float(p)
        for made in store.events(stored.id, COMPARED)
        if made.data["trial"] != trial.number
        for p in made.data["p_values"]
    ]
    rng = np.random.default_rng([stored.seed, trial.number])
    recorded = {_label(one): one.scores or {} for one in (*baselines, *same, trial)}
    tables = baseline_tables(
        judged_on(study), chosen, scored, rng, earlier, searched=recorded
    )
    found = {"trial": trial.number, "p_values": list(p_values(tables))}
    store.add_event(stored.id, COMPARED, found)
    known = {one.label: one for one in scored} | dict.fromkeys(
        map(_label, same), chosen
    )
    rng = np.random.default_rng([stored.seed, trial.number, len(tables)])
    bounds = held_bounds(study.constraints, chosen, known, recorded, rng)
    openings = len(store.events(stored.id, REPORT_OPENED))
    return Judged(tables, unscored, openings, bounds)


def answers(
    case: Case, trials: Sequence[Trial], cache_dir: Path, unscored: dict[str, str]
) -> list[Contender]:
    """Return trials with their held-out answers, and record that these were opened.

    Args:
        case: Of which study.
        trials: What is not known of them is scored.
        cache_dir: For the engine.
        unscored: Takes the label and reason of each that cannot be scored.

    Raises:
        CandidateError: The first cannot be scored.
    """
    store = case.store
    tasks = store.tasks(case.stored.id)
    if tasks is None:
        name = case.study.name
        raise StoreError(f"Study {name!r} has no recorded tasks; run it first.")
    scored: list[Contender] = []
    opening = _Opening(case)
    due = {trial.number: _due(store, tasks, trial) for trial in trials}
    done = 0
    with (
        step("scoring held-out items", sum(due.values()), "items") as now,
        _scorer(case.study, tasks, cache_dir, opening, now) as score,
    ):
        for trial in trials:
            now.to(done)
            try:
                scored.append(_contender(store, tasks, trial, score))
            except CandidateError as error:
                if trial is trials[0]:
                    raise
                unscored[_label(trial)] = str(error)
            done += due[trial.number]
    opening.note()  # also where all was known: it is looked at once more
    return scored


class _Opening:
    """Remembers an opening as soon as something is scored, before it can be seen.

    So one that is cut short counts if it scored something, and only then.
    """

    def __init__(self, case: Case) -> None:
        self._case = case
        self._is_noted = False

    def note(self) -> None:
        if not self._is_noted:
            self._is_noted = True
            said = {"trial": self._case.trial.number}
            self._case.store.add_event(self._case.stored.id, REPORT_OPENED, said)


Score = Callable[[Trial, TaskDescription], Sequence[Outcome]]


@contextmanager
def _scorer(
    study: ResolvedStudy,
    tasks: Sequence[TaskDescription],
    cache_dir: Path,
    opening: _Opening,
    now: Step,
) -> Iterator[Score]:
    """Give a function that scores held-out items; its engine starts when needed."""
    living: list[Evaluator] = []

    def score(trial: Trial, task: TaskDescription) -> Sequence[Outcome]:
        if not living:
            living.append(Evaluator(setup_of(study, cache_dir)))
            _check_same_protocol(study, tasks, living[0].ready("export").tasks)
        blocks = task.manifest.blocks(ItemRole.REPORT)
        outcomes = living[0].score(trial.candidate.recipe, blocks, now.advance)
        opening.note()
        return outcomes

    try:
        yield score
    finally:
        for evaluator in living:
            evaluator.close()


def _check_same_protocol(
    study: ResolvedStudy,
    recorded: Sequence[TaskDescription],
    now: Sequence[TaskDescription],
) -> None:
    for old, new in zip(recorded, now, strict=True):
        name = old.manifest.task
        if old.manifest.digest != new.manifest.digest:
            raise ExportError(
                f"Task {name!r} of {study.name!r} has other items now than when it was "
                "searched; restore its data."
            )
        if old.protocol.digest != new.protocol.digest:
            keys = sorted(
                key
                for key in {*old.protocol.settings, *new.protocol.settings}
                if old.protocol.settings.get(key) != new.protocol.settings.get(key)
            )
            raise ExportError(
                f"Task {name!r} of {study.name!r} would be scored otherwise now than "
                f"in the search ({', '.join(keys)} differ); use the same versions and "
                "the same type of device, or export with --no-score."
            )


def _held_out(task: TaskDescription) -> list[str]:
    return [item.id for item in task.manifest.items if item.role is ItemRole.REPORT]


def _due(store: Store, tasks: Sequence[TaskDescription], trial: Trial) -> int:
    """Return how many items are scored of a trial: whole tasks, unless all is known."""
    n_items, digest = 0, trial.candidate.recipe.digest
    for task in tasks:
        ids = _held_out(task)
        known = store.outcomes(digest, task.protocol.digest)
        n_items += len(ids) if any(item not in known for item in ids) else 0
    return n_items


def _contender(
    store: Store, tasks: Sequence[TaskDescription], trial: Trial, score: Score
) -> Contender:
    outcomes: dict[str, list[Outcome]] = {}
    digest = trial.candidate.recipe.digest
    for task in tasks:
        ids = _held_out(task)
        known = store.outcomes(digest, task.protocol.digest)
        if any(item not in known for item in ids):
            fresh = score(trial, task)
            store.add_outcomes(digest, task.protocol.digest, fresh)
            known = {**known, **{outcome.item: outcome for outcome in fresh}}
        outcomes[task.manifest.task] = [known[item] for item in ids]
    return Contender(_label(trial), {**outcomes, **pooled(tasks, outcomes)})


def _label(trial: Trial) -> str:
    return trial.candidate.label or f"trial {trial.number}"
