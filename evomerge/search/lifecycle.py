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
from collections.abc import Iterable, Sequence
from dataclasses import replace

from evomerge.core.cost import Meter
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
from evomerge.search.required_items import Known, RequiredItems, Requirements
from evomerge.search.sharing import Sharing
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
            meter: Tells what candidates cost; None if nothing asks for it.
            strays: What workers are still at from before.
            sharing: How attempts are shared out; None gives a worker whole trials.
        """
        self._timeout_s = timeout_s
        self._retries = retries
        self._required = Requirements(meter)
        self._pending: dict[int, Trial] = {}  # by number
        self._active: dict[int, Starting | Running] = {}
        self._ended: dict[int, Trial] = {}
        self._strays = {part.worker: part for part in strays}
        self._sharing = sharing or Sharing(is_on=False)
        # What follows from the active trials, kept at hand.
        self._busy: set[str] = set()  # workers
        self._recipes: set[str] = set()
        self._open: dict[int, Running] = {}  # some block of theirs is with nobody
        self._held: dict[str, int] = {}  # the trial whose candidate a worker holds
        self._owed: dict[int, int] = {}  # items that count, and are not recorded yet
        self._failed_at: dict[int, str] = {}  # the worker that last failed at a trial
        self._lacks_room = False

    @property
    def is_complete(self) -> bool:
        """Every trial has reached a final state."""
        return not self._pending and not self._active

    @property
    def n_running(self) -> int:
        """Trials that are being scored."""
        return len(self._active)

    @property
    def has_work(self) -> bool:
        """Some worker that has nothing to do could be given something."""
        return (
            bool(self._open)
            and (self._left_alone(None) is not None or self._to_help(None) is not None)
        ) or self._next(None) is not None

    @property
    def n_at_work(self) -> int:
        """Workers that are at something that counts."""
        return len(self._busy)

    def holds(self, worker: str) -> bool:
        """Tell whether a worker can go on with what it was at last."""
        return self._held.get(worker) in self._open

    @property
    def lacks_room(self) -> bool:
        """The next trial has more items than the budget has left."""
        return self._lacks_room

    @property
    def n_owed(self) -> int:
        """Items handed out or to be, of what is running, that will count."""
        return sum(self._owed.values())

    @property
    def n_items(self) -> int:
        """Items of a trial of which nothing is known."""
        return self._required.items.n_items

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, by number."""
        active = {number: now.trial for number, now in self._active.items()}
        every = {**self._pending, **active, **self._ended}
        return tuple(every[number] for number in sorted(every))

    @property
    def in_flight(self) -> tuple[Part, ...]:
        """What workers are at, whether it still counts or not."""
        running = (now for now in self._active.values() if isinstance(now, Running))
        parts = {part.worker: part for now in running for part in now.parts.values()}
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
            case GenerationBegan(trials):
                self._begin(trials)
            case TasksDescribed(tasks):
                self._required.items = RequiredItems(tasks)
            case SpeedKnown(recipe, speed):
                self._required.learn(recipe, speed)
            case WorkerReady():
                pass  # it is idle once it is welcome
        return []

    def _begin(self, trials: Sequence[Trial]) -> None:
        ordered = sorted(trials, key=lambda trial: trial.number)
        pending = {t.number: t for t in ordered if t.state is TrialState.PENDING}
        ended = {t.number: t for t in ordered if t.state.is_final}
        if self._active or len(pending) + len(ended) < len(ordered):
            raise IllegalTransitionError(
                "A generation begins with trials that are pending or final; what was "
                "running must be ended or made pending before."
            )
        self._pending, self._ended = pending, ended
        self._lacks_room = False
        self._held.clear()

    # From an idle worker to an attempt.

    def _next(self, avoid: str | None) -> Trial | None:
        """Return the first pending trial whose recipe nobody is scoring.

        Args:
            avoid: A worker; what failed there last is left for others.
        """
        if self._lacks_room:
            return None
        for trial in self._pending.values():
            failed_here = trial.failure is not None and avoid == self._failed_at.get(
                trial.number, trial.worker
            )
            if not failed_here and trial.candidate.recipe.digest not in self._recipes:
                return trial
        return None

    def _left_alone(self, avoid: str | None) -> Running | None:
        """Return an open trial that nobody is at: whoever was is gone, or at others."""
        for number, now in self._open.items():
            if not now.parts and (
                avoid is None or avoid != self._failed_at.get(number)
            ):
                return now
        return None

    def _to_help(self, avoid: str | None) -> Running | None:
        """Return the running trial with most work left, if that is worth a swap."""
        best = max(
            (
                now
                for number, now in self._open.items()
                if avoid is None or avoid != self._failed_at.get(number)
            ),
            key=self._left_s,
            default=None,
        )
        if best is None:
            return None
        block_s = best.block_s or self._sharing.portions.block_s
        if block_s is None:
            return None
        cost_s = self._sharing.portions.swap_s + block_s
        return best if self._left_s(best) > cost_s else None

    def _left_s(self, running: Running) -> float:
        block_s = running.block_s or self._sharing.portions.block_s or 0.0
        return len(running.unstarted) * block_s

    def _offer(self, idle: WorkerIdle) -> list[Instruction]:
        self._strays.pop(idle.worker, None)
        if idle.worker in self._busy:
            return []
        avoid = None if idle.is_alone else idle.worker
        begun = self._open.get(self._held.pop(idle.worker, -1))
        begun = begun or self._left_alone(avoid)
        trial = None if begun else self._next(avoid)
        if trial is None:
            begun = begun or self._to_help(avoid)
            return [] if begun is None else self._hand_out(begun, idle.worker)
        recipe = trial.candidate.recipe
        del self._pending[trial.number]
        self._active[trial.number] = Starting(trial, idle)
        self._busy.add(idle.worker)
        self._recipes.add(recipe.digest)
        return [ReadOutcomes(trial.number, recipe, self._required.items)]

    def _choose(self, event: OutcomesRead) -> list[Instruction]:
        """Reuse what is known if that is all; else begin an attempt."""
        starting, recipe = self._starting(event.trial)
        blocks = self._required.blocks(recipe, event.known)
        if blocks:
            if not self._reserve(starting, blocks, event.known):
                return []
            known = replace(starting, known=event.known, blocks=blocks)
            self._active[event.trial] = known
            return [BeginAttempt(event.trial, starting.idle.worker)]
        scores = self._required.scores(recipe, event.known)
        final = starting.reused(scores)
        self._put(final)
        done: list[Instruction] = [Reuse(event.trial, scores), EndTrial(final)]
        return [*done, *self._offer(starting.idle)]

    def _reserve(
        self, starting: Starting, blocks: Sequence[BlockKey], known: Known
    ) -> bool:
        """Set items of the budget aside; False if they are not there."""
        trial, room = starting.trial, starting.idle.room
        if trial.candidate.generation == 0:
            return True
        n_items = self._required.items.unknown(blocks, known)
        if room is not None and self.n_owed + n_items > room:
            self._lacks_room = True
            self._busy.discard(starting.idle.worker)
            self._put(trial)
            return False
        self._owed[trial.number] = n_items
        return True

    def _run(self, event: AttemptBegan) -> list[Instruction]:
        starting, _ = self._starting(event.trial)
        way = self._sharing.way(
            len(starting.blocks),
            is_timed=self._required.is_timed,
            is_alone=starting.idle.is_alone,
        )
        running = starting.running(event.attempt, way)
        self._active[event.trial] = running
        self._open[event.trial] = running
        return self._hand_out(running, starting.idle.worker, now=event.now)

    def _hand_out(
        self,
        running: Running,
        worker: str,
        now: float | None = None,
    ) -> list[Instruction]:
        part = running.hand_out(worker, self._timeout_s, now)
        self._busy.add(worker)
        if not running.is_open:
            self._open.pop(part.trial, None)
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
        found = self._active.get(number)
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
        running = self._active.get(event.trial)
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
        if event.trial in self._owed:
            fresh = self._required.items.unknown((event.block,), running.known)
            self._owed[event.trial] -= fresh
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
        self._open.pop(part.trial, None)
        self._failed_at[part.trial] = part.worker
        is_ours = failure.blame is Blame.CANDIDATE
        end = AttemptEnd.FAILED if is_ours else AttemptEnd.FAULT
        return self._end_part(running, part, PartEnded(part.number, end, failure.cause))

    def _end_part(
        self, running: Running, part: Part, ended: PartEnded
    ) -> list[Instruction]:
        del running.parts[part.worker]
        self._busy.discard(part.worker)
        self._held[part.worker] = part.trial
        moved = MovePart(part.trial, part.attempt, ended, None)
        if running.parts or running.is_open:
            return [moved]
        return [moved, *self._end(running)]

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
            scores = self._required.scores(recipe, running.known)
            ending = Ending(TrialState.SCORED, scores=scores, seconds=running.seconds)
        ended = running.ended(ending)
        self._put(ended)
        done = EndAttempt(ended.number, ended.attempt, ending)
        return [done, EndTrial(ended)] if ended.state.is_final else [done]

    def _put(self, trial: Trial) -> None:
        """Take a trial from those who are at it."""
        now = self._active.pop(trial.number)
        self._busy.difference_update(now.workers)
        self._recipes.discard(trial.candidate.recipe.digest)
        self._open.pop(trial.number, None)
        if self._owed.pop(trial.number, 0):
            self._lacks_room = False  # what was set aside and not used is free
        if trial.state.is_final:
            self._ended[trial.number] = trial
        else:
            self._pending[trial.number] = trial
            self._pending = dict(sorted(self._pending.items()))

    def _stop_overdue(self, now: float) -> list[Instruction]:
        overdue = [part for part in self.in_flight if part.is_over(now)]
        # All are stopped before the store is asked for anything: it may be away.
        done: list[Instruction] = [_stop(part) for part in overdue]
        for part in overdue:
            if self._strays.pop(part.worker, None) is part:
                continue  # its trial has been tried again since
            running = self._active[part.trial]
            assert isinstance(running, Running)
            failure = Failure(
                Cause.TIMEOUT,
                Blame.MACHINE,
                f"Attempt {part.attempt} on {part.worker} took longer than "
                f"{part.limit_s:g} s and was stopped.",
            )
            done += self._fail(running, part, failure)
        return done

    def validate(self) -> None:
        """Check this object's own invariants; for tests.

        Raises:
            AssertionError: Names the trial and the broken rule.
        """
        places = [*self._pending, *self._active, *self._ended]
        assert len(places) == len(set(places)), "a trial is in two states"
        assert list(self._pending) == sorted(self._pending)
        for trial in self.trials:
            assert (trial.scores is not None) == (trial.state is TrialState.SCORED), (
                trial
            )
            if trial.state in (TrialState.FAILED, TrialState.QUARANTINED):
                assert trial.failure is not None, trial
            is_running = isinstance(self._active.get(trial.number), Running)
            assert is_running == (trial.state is TrialState.RUNNING), trial
        digests = [now.trial.candidate.recipe.digest for now in self._active.values()]
        assert len(set(digests)) == len(digests), "one recipe is scored twice at once"
        assert self._recipes == set(digests)
        workers = [name for now in self._active.values() for name in now.workers]
        assert len(set(workers)) == len(workers), "a worker is at two attempts"
        assert self._busy == set(workers)
        running = (now for now in self._active.values() if isinstance(now, Running))
        assert self._open == {now.trial.number: now for now in running if now.is_open}
        assert self._owed.keys() <= self._active.keys()
        assert all(n >= 0 for n in self._owed.values())
        for now in self._active.values():
            is_cared_for = isinstance(now, Starting) or now.parts or now.is_open
            assert is_cared_for, "nobody is at a trial, or will be"
        assert not self._strays.keys() & set(workers), "a stray's worker has new work"


def _stop(part: Part) -> StopWorker:
    return StopWorker(part.worker, part.trial, part.attempt)
