"""Carry one generation through the workers, recording every block as it ends."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from evomerge.core.cost import SPEED_MEASURE, Meter, Speed
from evomerge.core.scoring_protocol import BlockKey, TaskDescription
from evomerge.core.trial import Blame, Cause, Failure, Record, Trial, TrialState
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    PoolEvent,
    WorkerLost,
)
from evomerge.errors import WorkerError
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.lifecycle import Lifecycle, RetryPolicy, judge
from evomerge.search.required_items import Known, RequiredItems
from evomerge.store.base import Ending, Lease, Store

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Limits:
    """How long an attempt may take, in seconds, and how often it is repeated."""

    timeout_s: float
    retries: RetryPolicy


class Attempts:
    """Hands trials to workers and records what comes back, under one lease."""

    def __init__(
        self,
        store: Store,
        dispatcher: Dispatcher,
        lease: Lease,
        limits: Limits,
        meter: Meter | None = None,
    ) -> None:
        self._store = store
        self._dispatcher = dispatcher
        self._lease = lease
        self._limits = limits
        self._required = RequiredItems(())
        self._known: dict[int, Known] = {}
        self._meter = meter
        self._speeds: dict[str, float] = {}
        self._clocks: dict[int, Speed] = {}

    @property
    def _is_timed(self) -> bool:
        return self._meter is not None and self._meter.is_timed

    def remember(self, record: Record) -> None:
        """Learn the speed of a trial of before: its recipe is not measured again."""
        speed = (record.scores or {}).get(SPEED_MEASURE)
        if speed is not None:
            self._speeds.setdefault(record.recipe, speed)

    def expect(self, tasks: Sequence[TaskDescription]) -> None:
        """Learn what is to be scored; before anything is handed out."""
        self._required = RequiredItems(tasks)

    def hand_out(self, life: Lifecycle) -> list[Trial]:
        """Give free workers pending trials; a retry goes to another, if there is one.

        Returns:
            The trials that needed no work, because every outcome was known.
        """
        reused: list[Trial] = []
        for worker in self._dispatcher.free():
            avoid = worker if self._dispatcher.n_up > 1 else None
            while (trial := life.next_pending(avoid)) is not None:
                known = self._outcomes(trial)
                todo = self._todo(trial, known)
                if todo:
                    self._start(life, trial, worker, todo, known)
                    break
                scores = self._scores(trial, known)
                reused.append(self._reuse(life, trial, scores))
        return reused

    def handle(self, life: Lifecycle, event: PoolEvent) -> tuple[Trial | None, int]:
        """Record an answer.

        Returns:
            The trial, if it reached a final state, and how many items were scored.

        Raises:
            WorkerError: Workers cannot be brought up.
        """
        if isinstance(event, WorkerLost):
            if event.fatal:
                raise WorkerError(event.failure.message)
            if event.trial is None:
                _log.warning("%s", _first_line(event.failure))
        number = getattr(event, "trial", None)
        attempt = getattr(event, "attempt", None)
        if number is None or attempt is None:
            return None, 0
        if not life.is_current(number, attempt):
            _log.info("late answer for trial %s attempt %s", number, attempt)
            return None, 0
        trial = life.get(number)
        if isinstance(event, BlockScored):
            return self._block(life, trial, event)
        if isinstance(event, AttemptDone):
            return self._done(life, trial, event), 0
        if isinstance(event, AttemptFailed | WorkerLost):
            return self._failed(life, trial, event.failure), 0
        return None, 0

    def stop_overdue(self, life: Lifecycle) -> list[Trial]:
        """Kill what ran past its deadline; return trials that became final."""
        ended = []
        for sent in self._dispatcher.overdue():
            self._dispatcher.cancel(sent.trial, sent.attempt)
            if not life.is_current(sent.trial, sent.attempt):
                continue  # sent before the database went away; tried again since
            failure = Failure(
                Cause.TIMEOUT,
                Blame.MACHINE,
                f"Attempt {sent.attempt} on {sent.worker} took longer than "
                f"{self._limits.timeout_s:g} s and was stopped.",
            )
            final = self._failed(life, life.get(sent.trial), failure)
            if final is not None:
                ended.append(final)
        return ended

    def _todo(self, trial: Trial, known: Known) -> tuple[BlockKey, ...]:
        """Return the blocks to score; all of them where the speed is to be measured.

        A speed over some of the blocks could not be compared with that over others.
        """
        if self._is_timed and trial.candidate.recipe.digest not in self._speeds:
            return self._required.blocks
        return self._required.missing(known)

    def _scores(self, trial: Trial, known: Known) -> dict[str, float]:
        scores = self._required.scores(known)
        recipe = trial.candidate.recipe
        if self._meter is not None:
            scores |= self._meter.fixed(recipe)
        if self._is_timed:
            scores[SPEED_MEASURE] = self._speeds[recipe.digest]
        return scores

    def _outcomes(self, trial: Trial) -> Known:
        ways = {t.manifest.task: t.protocol.digest for t in self._required.tasks}
        recipe = trial.candidate.recipe.digest
        found = self._store.outcomes_under(recipe, ways.values())
        known = {task: dict(found[way]) for task, way in ways.items()}
        also = trial.candidate.recipe.also if self._required.missing(known) else ()
        for other in also:
            self._adopt(recipe, ways, known, other)
        return known

    def _adopt(
        self, recipe: str, ways: Mapping[str, str], known: Known, other: str
    ) -> None:
        """Take over what is known of the same merge under another digest."""
        found = self._store.outcomes_under(other, ways.values())
        for task, way in ways.items():
            fresh = [o for item, o in found[way].items() if item not in known[task]]
            if fresh:
                self._store.add_outcomes(recipe, way, fresh)
                known[task].update({outcome.item: outcome for outcome in fresh})

    def _start(
        self,
        life: Lifecycle,
        trial: Trial,
        worker: str,
        todo: tuple[BlockKey, ...],
        known: Known,
    ) -> None:
        attempt = self._store.start_attempt(self._lease, trial.number, worker)
        life.start(trial.number, attempt, worker)
        self._known[trial.number] = known
        self._clocks[trial.number] = Speed()
        self._dispatcher.submit(
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
        final = replace(
            trial, state=TrialState.SCORED, scores=scores, failure=None, reused=True
        )
        life.end(final)
        return final

    def _block(
        self, life: Lifecycle, trial: Trial, event: BlockScored
    ) -> tuple[Trial | None, int]:
        fault = self._required.fault(event)
        if fault is not None:
            self._dispatcher.cancel(trial.number, trial.attempt)
            return self._failed(life, trial, fault), 0
        self._store.record_block(
            self._lease, trial.number, trial.attempt, event.block, event.outcomes
        )
        tokens = sum(outcome.tokens for outcome in event.outcomes)
        clock = self._clocks[trial.number]
        self._clocks[trial.number] = clock.plus(tokens, event.seconds)
        found = self._known[trial.number][event.block.task]
        found.update({outcome.item: outcome for outcome in event.outcomes})
        return None, len(event.outcomes)

    def _done(self, life: Lifecycle, trial: Trial, event: AttemptDone) -> Trial | None:
        known = self._known[trial.number]
        if missing := self._required.missing(known):
            failure = Failure(
                Cause.ENGINE,
                Blame.MACHINE,
                f"{event.worker} said it was done, but never reported {missing[0]}.",
            )
            return self._failed(life, trial, failure)
        if self._is_timed:
            speed = self._clocks[trial.number].tokens_per_second
            self._speeds.setdefault(trial.candidate.recipe.digest, speed)
        scores = self._scores(trial, known)
        ending = Ending(TrialState.SCORED, scores=scores, seconds=event.seconds)
        return self._end(life, trial, ending)

    def _failed(self, life: Lifecycle, trial: Trial, failure: Failure) -> Trial | None:
        verdict = judge(trial, failure, self._limits.retries)
        _log.warning(
            "trial %d attempt %d: %s -> %s",
            trial.number,
            trial.attempt,
            _first_line(verdict.failure),  # the rest is stored with the trial
            verdict.state,
        )
        return self._end(life, trial, Ending(verdict.state, failure=verdict.failure))

    def _end(self, life: Lifecycle, trial: Trial, ending: Ending) -> Trial | None:
        self._store.end_attempt(self._lease, trial.number, trial.attempt, ending)
        self._known.pop(trial.number, None)
        self._clocks.pop(trial.number, None)
        failure = ending.failure
        is_fault = failure is not None and failure.blame is Blame.MACHINE
        ended = replace(
            trial,
            state=ending.state,
            scores=ending.scores,
            failure=failure,
            seconds=ending.seconds,
            faults=trial.faults + is_fault,  # as the store counts them
        )
        life.end(ended)
        return ended if ended.state.is_final else None


def _first_line(failure: Failure) -> str:
    return str(failure).partition("\n")[0]
