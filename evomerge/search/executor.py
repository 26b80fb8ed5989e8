"""Carry out what the life of trials asks for: in the store, the pool and the counts.

What came of an attempt is written before anything is built on it, and before anything
more is waited for. So the blocks of a part, its end and the begin of its worker's next
one are one transaction. The store may refuse in two ways, and both end the hold of the
lease: ``LeaseLostError``, for all is another's then, and ``StaleAttemptError``, for
somebody changed a trial that was running here.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Mapping
from dataclasses import replace

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
from evomerge.store.base import Lease, Report, Store

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
        self._unwritten: dict[tuple[int, int], Report] = {}  # by trial and attempt

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

    def settle(self, trial: int | None = None) -> None:
        """Write what came of one trial's attempt, or of all, and is not written yet.

        Raises:
            LeaseLostError: Another coordinator took the study over.
            StaleAttemptError: A running attempt was ended by hand.
            StoreUnreachableError: The database went away.
        """
        for place in [at for at in self._unwritten if trial in (None, at[0])]:
            # What is refused is lost: whoever is next has it scored again.
            report = self._unwritten.pop(place)
            self._store.record(self._lease, *place, report)
            n_items = sum(map(len, report.blocks.values()))
            self._board.add_items(n_items)
            self._budget.recorded(n_items)

    def _carry_out(self, instruction: Instruction) -> Event | None:
        match instruction:
            case ReadOutcomes(trial, recipe, required):
                self.settle()
                return OutcomesRead(trial, self._outcomes(recipe, required))
            case BeginAttempt(trial, worker):
                attempt = self._store.start_attempt(self._lease, trial, worker)
                return AttemptBegan(trial, attempt, self._dispatcher.now())
            case RecordBlock() | MovePart():
                self._note(instruction)
            case Submit(worker, assignment):
                self.settle(assignment.trial)
                self._dispatcher.submit(worker, assignment)
            case EndAttempt() | Reuse() | EndTrial():
                self._end(instruction)
            case StopWorker(worker):
                self._dispatcher.stop(worker)
            case GiveUp(reason, is_futile):
                raise SetupError(reason) if is_futile else WorkerError(reason)
        return None

    def _note(self, news: RecordBlock | MovePart) -> None:
        place = (news.trial, news.attempt)
        before = self._unwritten.get(place, Report())
        match news:
            case RecordBlock(block=block, outcomes=outcomes):
                blocks = {**before.blocks, block: outcomes}
                self._unwritten[place] = replace(before, blocks=blocks)
                self._budget.note_items(len(outcomes))
            case MovePart(ended=ended, begun=begun):
                over = (*before.ended, *([] if ended is None else [ended]))
                self._unwritten[place] = replace(before, ended=over, begun=begun)

    def _end(self, end: EndAttempt | Reuse | EndTrial) -> None:
        match end:
            case EndAttempt(trial, attempt, ending):
                self.settle(trial)
                _tell(end)
                self._store.end_attempt(self._lease, trial, attempt, ending)
            case Reuse(trial, scores, precision):
                self._store.reuse(self._lease, trial, scores, precision)
            case EndTrial(final):
                self._board.add(final.record())

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


def _tell(end: EndAttempt) -> None:
    """Say in the log why an attempt failed, if it did."""
    ending = end.ending
    if ending.failure is not None:
        _log.warning(
            "trial %d attempt %d: %s -> %s",
            end.trial,
            end.attempt,
            ending.failure.first_line,  # the rest is stored with the trial
            ending.state,
            extra={
                "trial": end.trial,
                "attempt": end.attempt,
                "cause": ending.failure.cause,
            },
        )
