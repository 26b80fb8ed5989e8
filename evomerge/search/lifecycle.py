"""The life of a generation's trials: events go in, instructions come out.

A pure machine, after that of the workers of Dask's ``distributed``: it has no store, no
pool and no clock, and time comes in with events. So all that is decided about fencing,
retries and reuse is tried in any order of events without the three. What an instruction
asks for counts as done: ``executor`` carries out all that came of one event before the
next goes in.

**One trial, one object**, in one of three places::

    pending: Trial --WorkerIdle--> active: Starting --all is known----> ended: Trial
          ^                               | AttemptBegan                   ^
          |                               v                                |
          +----- a machine's fault --- active: Running ---- scored, or ----+
                                                            at fault

A *pending* trial is as the store has it. A *starting* one is chosen for a worker, and
the store is asked: first what is known of its recipe and then, if that is not all, for
an attempt. A *running* one holds everything of its attempt: the outcomes known so far,
and its parts. An *ended* one is final. No trial is chosen while an active one has its
recipe, as it will find the outcomes of that.

**Parts.** An attempt is scored in parts, a worker each: blocks that it was handed, and
which of them it has still to report. Where several workers are up, a part is a few of
the blocks (``portions``); whoever is done with one and still there gets the next of
the same attempt. One that nobody is at is taken up before a pending trial is, and a
worker for whom none is pending helps where most is left. A block handed out
is recorded once, or released when the attempt ends. A trial is scored because no
required item lacks an outcome and nobody is at it, whoever says that it is done. A part
that fails loses only itself: the attempt hands nothing more out, waits for the other
parts, and then ends with that failure, one fault however many parts had one. What they
recorded need not be scored again.

**Fencing.** An answer counts if its attempt is running and its worker has a part in
that; all others are late. A machine lasts as long as a hold of the lease: after an
outage the next is made of what the store holds. The workers go on meanwhile, so what
they are at (``in_flight``) is handed on as *strays*. The answers of a stray are late,
its worker gets work when the pool calls it idle, and is stopped when its time is over.

**Refusals.** That the lease is lost, or that an attempt is over in the store and runs
here, is no event: what is held here is wrong then, and the executor lets the error end
the hold. Nor is a stop one. It ends the hold from outside, and the store makes all that
is running pending in one transaction, whatever state this machine is in.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

from evomerge.core.meter import Meter
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import BlockKey
from evomerge.core.trial import Blame, Cause, Failure, Trial, TrialState
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    WorkerLost,
    WorkerReady,
)
from evomerge.errors import IllegalTransitionError
from evomerge.search.attempt import Part, RetryPolicy, Running, Starting, judge
from evomerge.search.messages import (
    AttemptBegan,
    BeginAttempt,
    EndAttempt,
    EndTrial,
    Event,
    GenerationBegan,
    GiveUp,
    Instruction,
    MovePart,
    OutcomesRead,
    ReadOutcomes,
    RecordBlock,
    Reuse,
    SpeedKnown,
    StopWorker,
    Submit,
    TasksDescribed,
    Tick,
    WorkerIdle,
)
from evomerge.search.required_items import Known, Requirements
from evomerge.search.sharing import Sharing
from evomerge.search.standing import Standing
from evomerge.store.base import AttemptEnd, Ending, PartBegun, PartEnded

_log = logging.getLogger(__name__)

Answer = BlockScored | AttemptDone | AttemptFailed | WorkerLost


class Lifecycle:
    """Where every trial of a generation stands; owns all that it holds."""

    def __init__(
        self,
        timeout_s: float,
        retries: RetryPolicy,
        meter: Meter | None = None,
        strays: Iterable[Part] = (),
        sharing: Sharing | None = None,
    ) -> None:
        """Begin without trials.

        Args:
            timeout_s: Longest that an attempt may take.
            retries: How often it is repeated.
            meter: Tells of whole candidates; None if nothing asks for it.
            strays: What workers are still at from before.
            sharing: How attempts are shared out; None gives a worker whole trials.
        """
        self._timeout_s = timeout_s
        self._retries = retries
        self._required = Requirements(meter)
        self._standing = Standing()
        self._strays = {part.worker: part for part in strays}
        self._sharing = sharing or Sharing(is_on=False)
        self._new: list[Part] = []  # handed out since time was looked at
        self._due = -math.inf  # nobody's time is over before
        self._now = -math.inf  # as far as has been said

    @property
    def is_complete(self) -> bool:
        """Every trial has reached a final state."""
        return self._standing.is_complete

    @property
    def n_unfinished(self) -> int:
        """Trials that have reached no final state."""
        return self._standing.n_unfinished

    @property
    def n_running(self) -> int:
        """Trials that are being scored."""
        return len(self._standing.active)

    def has_work_for(self, idle: Iterable[str]) -> bool:
        """Tell whether one of these workers can go on, or be given something."""
        standing = self._standing
        return (
            standing.holds_any(idle)
            or standing.left_alone(None) is not None
            or standing.next(None) is not None
            or standing.to_help(None, self._sharing.portions, self._now) is not None
        )

    @property
    def n_at_work(self) -> int:
        """Workers that are at something that counts."""
        return self._standing.n_at_work

    def holds(self, worker: str) -> bool:
        """Tell whether a worker can go on with what it was at last."""
        return self._standing.holds(worker)

    @property
    def lacks_room(self) -> bool:
        """The next trial has more items than the budget has left."""
        return self._standing.lacks_room

    @property
    def n_owed(self) -> int:
        """Items of the running trials that will count, and are not recorded yet."""
        return self._standing.n_owed

    @property
    def n_items(self) -> int:
        """Items of a trial of which nothing is known."""
        return self._required.items.n_items

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, by number."""
        return self._standing.trials

    @property
    def in_flight(self) -> tuple[Part, ...]:
        """What workers are at, whether it still counts or not."""
        parts = {part.worker: part for part in self._standing.parts}
        return tuple({**self._strays, **parts}.values())

    def handle(self, event: Event) -> list[Instruction]:
        """Let something happen.

        Returns:
            What is to be done now, in this order.

        Raises:
            IllegalTransitionError: A trial cannot take this step.
        """
        match event:
            case BlockScored() | AttemptDone() | AttemptFailed() | WorkerLost():
                return self._hear(event)
            case Tick(now):
                return self._stop_overdue(now)
            case WorkerIdle():
                return self._offer(event)
            case OutcomesRead():
                return self._choose(event)
            case AttemptBegan():
                return self._run(event)
            case GenerationBegan(trials, sample):
                self._required.choose(sample)
                self._standing.begin(trials)
            case TasksDescribed(tasks):
                self._required.describe(tasks)
            case SpeedKnown(recipe, speed):
                self._required.learn(recipe, speed)
            case WorkerReady():
                pass  # it is idle once it is welcome
        return []

    # From an idle worker to an attempt.

    def _offer(self, idle: WorkerIdle) -> list[Instruction]:
        self._strays.pop(idle.worker, None)
        standing = self._standing
        if standing.is_busy(idle.worker):
            return []
        avoid = None if idle.is_alone else idle.worker
        begun = standing.begun(idle.worker, avoid)
        trial = None if begun else standing.next(avoid)
        if trial is None:
            costs = self._sharing.portions
            begun = begun or standing.to_help(avoid, costs, self._now)
            return [] if begun is None else self._hand_out(begun, idle.worker)
        standing.start(trial, idle)
        recipe = trial.candidate.recipe
        return [ReadOutcomes(trial.number, recipe, self._required.items)]

    def _choose(self, event: OutcomesRead) -> list[Instruction]:
        """Reuse what is known if that is all; else begin an attempt."""
        starting, recipe = self._starting(event.trial)
        blocks = self._required.blocks(recipe, event.known)
        if blocks:
            if not self._reserve(starting, blocks, event.known):
                return []
            known = replace(starting, known=event.known, blocks=blocks)
            self._standing.active[event.trial] = known
            return [BeginAttempt(event.trial, starting.idle.worker)]
        scores = self._required.scores(recipe, event.known)
        precision = self._required.precision(event.known)
        final = starting.reused(scores, precision)
        self._standing.put(final)
        reuse = Reuse(event.trial, scores, precision)
        done: list[Instruction] = [reuse, EndTrial(final)]
        return [*done, *self._offer(starting.idle)]

    def _reserve(
        self, starting: Starting, blocks: Sequence[BlockKey], known: Known
    ) -> bool:
        """Set items of the budget aside; False if they are not there."""
        if starting.trial.candidate.generation == 0:
            return True
        n_items = self._required.items.unknown(blocks, known)
        return self._standing.reserve(starting, n_items)

    def _run(self, event: AttemptBegan) -> list[Instruction]:
        starting, _ = self._starting(event.trial)
        way = self._sharing.way(
            len(starting.blocks),
            is_timed=self._required.is_timed,
            is_alone=starting.idle.is_alone,
        )
        running = starting.running(event.attempt, way)
        self._now = event.now
        self._standing.run(running)
        return self._hand_out(running, starting.idle.worker, now=event.now)

    def _hand_out(
        self,
        running: Running,
        worker: str,
        now: float | None = None,
    ) -> list[Instruction]:
        standing = self._standing
        is_small = self._sharing.is_small(
            running, standing.n_pending, standing.n_at_work
        )
        part = running.hand_out(worker, self._timeout_s, now, is_small=is_small)
        self._new.append(part)
        standing.handed_out(running, worker)
        assignment = Assignment(
            trial=part.trial,
            attempt=part.attempt,
            recipe=running.trial.candidate.recipe,
            blocks=part.blocks,
            timeout_s=part.limit_s,
            calls=part.calls,
        )
        begun = PartBegun(part.number, worker, part.blocks)
        return [
            MovePart(part.trial, part.attempt, None, begun),
            Submit(worker, assignment),
        ]

    def _starting(self, number: int) -> tuple[Starting, Recipe]:
        found = self._standing.active.get(number)
        if not isinstance(found, Starting):
            raise IllegalTransitionError(
                f"Trial {number} is not being started: nothing was asked for it."
            )
        return found, found.trial.candidate.recipe

    # From a worker's answers to the end of an attempt.

    def _hear(self, event: Answer) -> list[Instruction]:
        if isinstance(event, WorkerLost) and event.fatal:
            return [GiveUp(event.failure.message, event.futile)]
        if event.trial is None:
            about = {"worker": event.worker, "cause": event.failure.cause}
            _log.warning("%s", event.failure.first_line, extra=about)
            return []
        running = self._standing.active.get(event.trial)
        if not isinstance(running, Running) or running.trial.attempt != event.attempt:
            return self._drop(event)
        part = running.parts.get(event.worker)
        if part is None:
            return self._drop(event)
        match event:
            case BlockScored():
                return self._record(running, part, event)
            case AttemptDone():
                return self._done(running, part, event)
            case AttemptFailed(failure=failure) | WorkerLost(failure=failure):
                return self._fail(running, part, failure)

    def _drop(self, event: Answer) -> list[Instruction]:
        about = {a: getattr(event, a) for a in ("trial", "attempt", "worker")}
        _log.info(
            "late answer for trial %(trial)s attempt %(attempt)s", about, extra=about
        )
        stray = self._strays.get(event.worker)
        if stray is None or isinstance(event, BlockScored):
            return []
        if (stray.trial, stray.attempt) == (event.trial, event.attempt):
            del self._strays[event.worker]
        return []

    def _record(
        self, running: Running, part: Part, event: BlockScored
    ) -> list[Instruction]:
        fault = self._required.items.fault(event)
        if fault is not None:
            return [_stop(part), *self._fail(running, part, fault)]
        if event.block not in part.left:
            return self._drop(event)  # reported before
        part.left.remove(event.block)
        part.took[event.block] = event.seconds
        tokens = sum(outcome.tokens for outcome in event.outcomes)
        running.clock = running.clock.plus(tokens, event.seconds)
        fresh = self._required.items.unknown((event.block,), running.known)
        self._standing.recorded(event.trial, fresh)
        found = running.known[event.block.task]
        found.update({outcome.item: outcome for outcome in event.outcomes})
        return [RecordBlock(event.trial, event.attempt, event.block, event.outcomes)]

    def _done(
        self, running: Running, part: Part, event: AttemptDone
    ) -> list[Instruction]:
        if part.left:
            missing = next(block for block in part.blocks if block in part.left)
            failure = Failure(
                Cause.ENGINE,
                Blame.MACHINE,
                f"{event.worker} said it was done, but never reported {missing}.",
            )
            return self._fail(running, part, failure)
        running.done(part, event.seconds)
        self._sharing.learn(running, part, event.seconds, self._required.items)
        return self._end_part(running, part, PartEnded(part.number, AttemptEnd.SCORED))

    def _fail(
        self, running: Running, part: Part, failure: Failure
    ) -> list[Instruction]:
        running.fail(failure)
        self._standing.failed(part)
        is_ours = failure.blame is Blame.CANDIDATE
        end = AttemptEnd.FAILED if is_ours else AttemptEnd.FAULT
        return self._end_part(running, part, PartEnded(part.number, end, failure.cause))

    def _end_part(
        self, running: Running, part: Part, ended: PartEnded
    ) -> list[Instruction]:
        moved = MovePart(part.trial, part.attempt, ended, None)
        is_over = self._standing.over(running, part)
        return [moved, *self._end(running)] if is_over else [moved]

    def _end(self, running: Running) -> list[Instruction]:
        """End an attempt that nobody is at any more."""
        failure = running.failure
        is_whole = not self._required.items.missing(running.known)
        # Who is timed is at blocks that are known, and one fault spoils the time.
        if failure is not None and (self._required.is_timed or not is_whole):
            verdict = judge(running.trial, failure, self._retries)
            ending = Ending(verdict.state, failure=verdict.failure)
        else:
            assert is_whole, running
            recipe = running.trial.candidate.recipe
            self._required.learn(recipe.digest, running.clock.tokens_per_second)
            ending = Ending(
                TrialState.SCORED,
                scores=self._required.scores(recipe, running.known),
                seconds=running.seconds,
                precision=self._required.precision(running.known),
            )
        ended = running.ended(ending)
        self._standing.put(ended)
        done = EndAttempt(ended.number, ended.attempt, ending)
        return [done, EndTrial(ended)] if ended.state.is_final else [done]

    def _stop_overdue(self, now: float) -> list[Instruction]:
        self._now = now
        # With many workers the ends of all are looked at only when one may be due.
        soonest = min((part.ends(now) for part in self._new), default=math.inf)
        self._due = min(self._due, soonest)
        self._new.clear()
        if now < self._due:
            return []
        overdue = [part for part in self.in_flight if part.ends(now) <= now]
        # All are stopped before the store is asked for anything: it may be away.
        done: list[Instruction] = [_stop(part) for part in overdue]
        for part in overdue:
            if self._strays.pop(part.worker, None) is part:
                continue  # its trial has been tried again since
            running = self._standing.active[part.trial]
            assert isinstance(running, Running)
            failure = Failure(
                Cause.TIMEOUT,
                Blame.MACHINE,
                f"Attempt {part.attempt} on {part.worker} took longer than "
                f"{part.limit_s:g} s and was stopped.",
            )
            done += self._fail(running, part, failure)
        ends = (part.ends(now) for part in self.in_flight)
        self._due = min(ends, default=math.inf)
        return done

    def validate(self) -> None:
        """Check this object's own invariants; for tests.

        Raises:
            AssertionError: Names the trial and the broken rule.
        """
        self._standing.validate()
        for trial in self.trials:
            assert (trial.scores is not None) == (trial.state is TrialState.SCORED), (
                trial
            )
            if trial.state in (TrialState.FAILED, TrialState.QUARANTINED):
                assert trial.failure is not None, trial
            is_running = isinstance(self._standing.active.get(trial.number), Running)
            assert is_running == (trial.state is TrialState.RUNNING), trial
        workers = {part.worker for part in self._standing.parts}
        assert not self._strays.keys() & workers, "a stray's worker has new work"


def _stop(part: Part) -> StopWorker:
    return StopWorker(part.worker, part.trial, part.attempt)
