"""Carry out what the life of trials asks for: in the store, the pool and the counts.

What the store has to do is one transaction for each instruction. It may refuse in two
ways, and both end the hold of the lease: ``LeaseLostError``, for all is another's then,
and ``StaleAttemptError``, for somebody changed a trial that was running here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping

from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import SetupError, WorkerError
from evomerge.search.budget import BudgetWatch
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.messages import (
    AttemptBegan,
    BeginAttempt,
    EndAttempt,
    EndTrial,
    Event,
    GiveUp,
    Instruction,
    MovePart,
    OutcomesRead,
    ReadOutcomes,
    RecordBlock,
    Reuse,
    StopWorker,
    Submit,
)
from evomerge.search.required_items import Known, RequiredItems
from evomerge.search.scoreboard import Scoreboard
from evomerge.store.base import Lease, Store

_log = logging.getLogger(__name__)


class Executor:
    """The hands of a lifecycle, under one lease."""

    def __init__(
        self,
        life: Lifecycle,
        store: Store,
        lease: Lease,
        dispatcher: Dispatcher,
        board: Scoreboard,
        budget: BudgetWatch,
    ) -> None:
        self._life = life
        self._store = store
        self._lease = lease
        self._dispatcher = dispatcher
        self._board = board
        self._budget = budget

    def feed(self, event: Event) -> None:
        """Let an event happen, and carry out all that comes of it.

        Raises:
            LeaseLostError: Another coordinator took the study over.
            StaleAttemptError: A running attempt was ended by hand.
            StoreUnreachableError: The database went away.
            SetupError: No worker can ever be what the study asks for.
            WorkerError: Workers cannot be brought up.
        """
        events: deque[Event] = deque([event])
        while events:
            for instruction in self._life.handle(events.popleft()):
                answer = self._carry_out(instruction)
                if answer is not None:
                    events.append(answer)

    def _carry_out(self, instruction: Instruction) -> Event | None:
        match instruction:
            case ReadOutcomes(trial, recipe, required):
                return OutcomesRead(trial, self._outcomes(recipe, required))
            case BeginAttempt(trial, worker):
                attempt = self._store.start_attempt(self._lease, trial, worker)
                return AttemptBegan(trial, attempt, self._dispatcher.now())
            case Submit(worker, assignment):
                self._dispatcher.submit(worker, assignment)
            case RecordBlock() | MovePart() | EndAttempt() | Reuse():
                self._write(instruction)
            case EndTrial(final):
                self._board.add(final.record())
            case StopWorker(worker):
                self._dispatcher.stop(worker)
            case GiveUp(reason, is_futile):
                raise SetupError(reason) if is_futile else WorkerError(reason)
        return None

    def _write(self, write: RecordBlock | MovePart | EndAttempt | Reuse) -> None:
        match write:
            case RecordBlock():
                self._record(write)
            case MovePart(trial, attempt, ended, begun):
                self._store.move_part(self._lease, trial, attempt, ended, begun)
            case EndAttempt():
                self._end(write)
            case Reuse(trial, scores):
                self._store.reuse(self._lease, trial, scores)

    def _record(self, done: RecordBlock) -> None:
        self._store.record_block(
            self._lease, done.trial, done.attempt, done.block, done.outcomes
        )
        n_items = len(done.outcomes)
        self._board.add_items(n_items)
        self._budget.note_items(n_items)

    def _end(self, done: EndAttempt) -> None:
        ending = done.ending
        if ending.failure is not None:
            _log.warning(
                "trial %d attempt %d: %s -> %s",
                done.trial,
                done.attempt,
                ending.failure.first_line,  # the rest is stored with the trial
                ending.state,
                extra={
                    "trial": done.trial,
                    "attempt": done.attempt,
                    "cause": ending.failure.cause,
                },
            )
        self._store.end_attempt(self._lease, done.trial, done.attempt, ending)

    def _outcomes(self, recipe: Recipe, required: RequiredItems) -> Known:
        ways = {t.manifest.task: t.protocol.digest for t in required.tasks}
        found = self._store.outcomes_under(recipe.digest, ways.values())
        known = {task: dict(found[way]) for task, way in ways.items()}
        also = recipe.also if required.missing(known) else ()
        for other in also:
            self._adopt(recipe.digest, ways, known, other)
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
