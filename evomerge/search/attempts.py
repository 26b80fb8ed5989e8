"""Carry one generation through the pool, recording every block as it ends."""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.core.protocol import (
    BlockKey,
    ItemRole,
    Outcome,
    TaskDescription,
)
from evomerge.core.trial import Blame, Cause, Failure, Trial, TrialState
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    Pool,
    PoolEvent,
    WorkerLost,
)
from evomerge.errors import WorkerError
from evomerge.search.lifecycle import Lifecycle, RetryPolicy, judge
from evomerge.store.base import Ending, Lease, Store

_log = logging.getLogger(__name__)

Known = dict[str, dict[str, Outcome]]
"""Task to item id to outcome."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an attempt may take, in seconds, and how often it is repeated."""

    timeout_s: float
    retries: RetryPolicy


class Attempts:
    """Hands the trials of one generation to workers and records what comes back."""

    def __init__(
        self,
        store: Store,
        pool: Pool,
        lease: Lease,
        limits: Limits,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._store = store
        self._pool = pool
        self._lease = lease
        self._limits = limits
        self._clock = clock
        self._known: dict[int, Known] = {}

    def hand_out(
        self,
        life: Lifecycle,
        tasks: Sequence[TaskDescription],
        welcome: Container[str],
    ) -> list[Trial]:
        """Give free, welcome workers pending trials.

        Returns:
            The trials that needed no work, because every outcome was known.
        """
        reused: list[Trial] = []
        for worker in self._pool.free():
            if worker not in welcome:
                continue
            while (trial := life.next_pending()) is not None:
                known = self._outcomes(trial, tasks)
                todo = _missing(tasks, known)
                if todo:
                    self._start(life, trial, worker, todo, known)
                    break
                reused.append(self._reuse(life, trial, scores_of(tasks, known)))
        return reused

    def handle(
        self, life: Lifecycle, event: PoolEvent, tasks: Sequence[TaskDescription]
    ) -> tuple[Trial | None, int]:
        """Record an answer.

        Returns:
            The trial, if it reached a final state, and how many items were scored.
        """
        if isinstance(event, WorkerLost) and event.fatal:
            raise WorkerError(event.failure.message)
        trial_number = getattr(event, "trial", None)
        attempt = getattr(event, "attempt", None)
        if trial_number is None or attempt is None:
            if isinstance(event, WorkerLost):
                _log.warning("%s: %s", event.worker, event.failure.message)
            return None, 0
        if not life.is_current(trial_number, attempt):
            _log.info("late answer for trial %s attempt %s", trial_number, attempt)
            return None, 0
        trial = life.get(trial_number)
        if isinstance(event, BlockScored):
            return self._block(life, trial, event, tasks)
        if isinstance(event, AttemptDone):
            return self._done(life, trial, event, tasks), 0
        if isinstance(event, AttemptFailed | WorkerLost):
            return self._failed(life, trial, event.failure), 0
        return None, 0

    def stop_overdue(self, life: Lifecycle) -> list[Trial]:
        """Kill what ran past its deadline; return trials that became final."""
        ended = []
        for trial in life.overdue(self._clock()):
            self._pool.cancel(trial.number, trial.attempt)
            failure = Failure(
                Cause.TIMEOUT,
                Blame.MACHINE,
                f"Attempt {trial.attempt} on {trial.worker} took longer than "
                f"{self._limits.timeout_s:g} s and was stopped.",
            )
            if (final := self._failed(life, trial, failure)) is not None:
                ended.append(final)
        return ended

    def _outcomes(self, trial: Trial, tasks: Sequence[TaskDescription]) -> Known:
        recipe = trial.candidate.recipe.digest
        return {
            task.manifest.task: dict(self._store.outcomes(recipe, task.protocol.digest))
            for task in tasks
        }

    def _start(
        self,
        life: Lifecycle,
        trial: Trial,
        worker: str,
        todo: tuple[BlockKey, ...],
        known: Known,
    ) -> None:
        attempt = self._store.start_attempt(self._lease, trial.number, worker)
        deadline = self._clock() + self._limits.timeout_s
        life.start(trial.number, attempt, worker, deadline)
        self._known[trial.number] = known
        self._pool.submit(
            worker,
            Assignment(
                trial=trial.number,
                attempt=attempt,
                recipe=trial.candidate.recipe,
                blocks=todo,
                timeout_s=self._limits.timeout_s,
            ),
        )

    def _reuse(
        self, life: Lifecycle, trial: Trial, scores: Mapping[str, float]
    ) -> Trial:
        self._store.reuse(self._lease, trial.number, scores)
        final = replace(trial, state=TrialState.SCORED, scores=scores, reused=True)
        life.end(final)
        return final

    def _block(
        self,
        life: Lifecycle,
        trial: Trial,
        event: BlockScored,
        tasks: Sequence[TaskDescription],
    ) -> tuple[Trial | None, int]:
        task = next(t for t in tasks if t.manifest.task == event.block.task)
        fault = _fault(event, task.manifest.ids(event.block))
        if fault is not None:
            self._pool.cancel(trial.number, trial.attempt)
            return self._failed(life, trial, fault), 0
        self._store.record_block(
            self._lease, trial.number, trial.attempt, event.block, event.outcomes
        )
        found = self._known[trial.number][event.block.task]
        found.update({outcome.item: outcome for outcome in event.outcomes})
        return None, len(event.outcomes)

    def _done(
        self,
        life: Lifecycle,
        trial: Trial,
        event: AttemptDone,
        tasks: Sequence[TaskDescription],
    ) -> Trial | None:
        known = self._known[trial.number]
        if missing := _missing(tasks, known):
            failure = Failure(
                Cause.ENGINE,
                Blame.MACHINE,
                f"{event.worker} said it was done, but never reported {missing[0]}.",
            )
            return self._failed(life, trial, failure)
        scores = scores_of(tasks, known)
        ending = Ending(TrialState.SCORED, scores=scores, seconds=event.seconds)
        return self._end(life, trial, ending)

    def _failed(self, life: Lifecycle, trial: Trial, failure: Failure) -> Trial | None:
        verdict = judge(trial, failure, self._limits.retries)
        _log.warning(
            "trial %d attempt %d: %s (%s's fault): %s -> %s",
            trial.number,
            trial.attempt,
            failure.cause,
            verdict.failure.blame,
            failure.message.partition("\n")[0],  # the rest is stored with the trial
            verdict.state,
        )
        return self._end(life, trial, Ending(verdict.state, failure=verdict.failure))

    def _end(self, life: Lifecycle, trial: Trial, ending: Ending) -> Trial | None:
        self._store.end_attempt(self._lease, trial.number, trial.attempt, ending)
        self._known.pop(trial.number, None)
        ended = replace(
            trial,
            state=ending.state,
            scores=ending.scores,
            failure=ending.failure,
            seconds=ending.seconds,
        )
        life.end(ended)
        return ended if ended.state.is_final else None


def scores_of(
    tasks: Sequence[TaskDescription],
    known: Mapping[str, Mapping[str, Outcome]],
    role: ItemRole = ItemRole.SEARCH,
) -> dict[str, float]:
    """Average the outcomes of each task over the items of one role.

    Returns:
        ``task/metric`` to mean, with ``tokens`` and ``truncated`` as further metrics.
        Sums are exact (``fsum``), so the order of arrival cannot matter.
    """
    scores: dict[str, float] = {}
    for task in tasks:
        name = task.manifest.task
        items = [i.id for i in task.manifest.items if i.role == role]
        outcomes = [known[name][item] for item in items]
        for metric in task.metrics:
            values = [outcome.metrics[metric] for outcome in outcomes]
            scores[f"{name}/{metric}"] = math.fsum(values) / len(values)
        n = len(outcomes)
        scores[f"{name}/tokens"] = sum(o.tokens for o in outcomes) / n
        scores[f"{name}/truncated"] = sum(o.truncated for o in outcomes) / n
    return scores


def _missing(tasks: Sequence[TaskDescription], known: Known) -> tuple[BlockKey, ...]:
    return tuple(
        block
        for task in tasks
        for block in task.manifest.blocks(ItemRole.SEARCH)
        if not all(i in known[block.task] for i in task.manifest.ids(block))
    )


def _fault(event: BlockScored, ids: tuple[str, ...]) -> Failure | None:
    if tuple(outcome.item for outcome in event.outcomes) != ids:
        return Failure(
            Cause.ENGINE,
            Blame.MACHINE,
            f"{event.worker} answered other items than block {event.block} has.",
        )
    for outcome in event.outcomes:
        for metric, value in outcome.metrics.items():
            if not math.isfinite(value):
                return Failure(
                    Cause.EVALUATION,
                    Blame.CANDIDATE,
                    f"Metric {metric!r} of task {event.block.task!r} is {value} for "
                    f"item {outcome.item}.",
                )
    return None
