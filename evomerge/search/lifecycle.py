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

**Parts.** An attempt is scored in parts, a worker each: the blocks that it has still to
report, when it began, tokens and seconds so far. A block handed out is recorded once,
or released when the attempt ends. A trial is scored because no required item lacks an
outcome, whoever says that it is done. There is one part now. To share an attempt out is
to make more of them in ``Starting.running``, to submit each, to end the attempt with
the last of them instead of the first, and to add up their clocks and seconds.

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
from evomerge.search.required_items import RequiredItems, Requirements
from evomerge.store.base import Ending

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
    ) -> None:
        """Begin without trials.

        Args:
            timeout_s: Longest that an attempt may take.
            retries: How often it is repeated.
            meter: Tells what candidates cost; None if nothing asks for it.
            strays: What workers are still at from before.
        """
        self._timeout_s = timeout_s
        self._retries = retries
        self._required = Requirements(meter)
        self._pending: dict[int, Trial] = {}  # by number
        self._active: dict[int, Starting | Running] = {}
        self._ended: dict[int, Trial] = {}
        self._strays = {part.worker: part for part in strays}

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
        return self._next(None) is not None

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

    # From an idle worker to an attempt.

    def _next(self, avoid: str | None) -> Trial | None:
        """Return the first pending trial whose recipe nobody is scoring.

        Args:
            avoid: A worker; what failed there last is left for others.
        """
        busy = {now.trial.candidate.recipe.digest for now in self._active.values()}
        for trial in self._pending.values():
            failed_here = trial.failure is not None and trial.worker == avoid
            if not failed_here and trial.candidate.recipe.digest not in busy:
                return trial
        return None

    def _offer(self, idle: WorkerIdle) -> list[Instruction]:
        self._strays.pop(idle.worker, None)
        if any(idle.worker in now.workers for now in self._active.values()):
            return []
        trial = self._next(None if idle.is_alone else idle.worker)
        if trial is None:
            return []
        del self._pending[trial.number]
        self._active[trial.number] = Starting(trial, idle)
        recipe = trial.candidate.recipe
        return [ReadOutcomes(trial.number, recipe, self._required.items)]

    def _choose(self, event: OutcomesRead) -> list[Instruction]:
        """Reuse what is known if that is all; else begin an attempt."""
        starting, recipe = self._starting(event.trial)
        blocks = self._required.blocks(recipe, event.known)
        if blocks:
            known = replace(starting, known=event.known, blocks=blocks)
            self._active[event.trial] = known
            return [BeginAttempt(event.trial, starting.idle.worker)]
        scores = self._required.scores(recipe, event.known)
        final = starting.reused(scores)
        self._put(final)
        done: list[Instruction] = [Reuse(event.trial, scores), EndTrial(final)]
        return [*done, *self._offer(starting.idle)]

    def _run(self, event: AttemptBegan) -> list[Instruction]:
        starting, recipe = self._starting(event.trial)
        self._active[event.trial] = starting.running(event.attempt, event.now)
        assignment = Assignment(
            trial=event.trial,
            attempt=event.attempt,
            recipe=recipe,
            blocks=starting.blocks,
            timeout_s=self._timeout_s,
        )
        return [Submit(starting.idle.worker, assignment)]

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
                return self._complete(running, part, event)
            case AttemptFailed(failure=failure) | WorkerLost(failure=failure):
                return self._fail(running, failure)

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
            return [_stop(part), *self._fail(running, fault)]
        if event.block not in part.left:
            return self._drop(event)  # reported before
        part.left.remove(event.block)
        tokens = sum(outcome.tokens for outcome in event.outcomes)
        part.clock = part.clock.plus(tokens, event.seconds)
        found = running.known[event.block.task]
        found.update({outcome.item: outcome for outcome in event.outcomes})
        return [RecordBlock(event.trial, event.attempt, event.block, event.outcomes)]

    def _complete(
        self, running: Running, part: Part, event: AttemptDone
    ) -> list[Instruction]:
        if missing := self._required.items.missing(running.known):
            failure = Failure(
                Cause.ENGINE,
                Blame.MACHINE,
                f"{event.worker} said it was done, but never reported {missing[0]}.",
            )
            return self._fail(running, failure)
        recipe = running.trial.candidate.recipe
        self._required.learn(recipe.digest, part.clock.tokens_per_second)
        scores = self._required.scores(recipe, running.known)
        ending = Ending(TrialState.SCORED, scores=scores, seconds=event.seconds)
        return self._end(running, ending)

    def _fail(self, running: Running, failure: Failure) -> list[Instruction]:
        verdict = judge(running.trial, failure, self._retries)
        return self._end(running, Ending(verdict.state, failure=verdict.failure))

    def _end(self, running: Running, ending: Ending) -> list[Instruction]:
        ended = running.ended(ending)
        self._put(ended)
        done = EndAttempt(ended.number, ended.attempt, ending)
        return [done, EndTrial(ended)] if ended.state.is_final else [done]

    def _put(self, trial: Trial) -> None:
        """Take a trial from its worker."""
        del self._active[trial.number]
        if trial.state.is_final:
            self._ended[trial.number] = trial
        else:
            self._pending[trial.number] = trial
            self._pending = dict(sorted(self._pending.items()))

    def _stop_overdue(self, now: float) -> list[Instruction]:
        overdue = [p for p in self.in_flight if p.began + self._timeout_s <= now]
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
                f"{self._timeout_s:g} s and was stopped.",
            )
            done += self._fail(running, failure)
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
        workers = [name for now in self._active.values() for name in now.workers]
        assert len(set(workers)) == len(workers), "a worker is at two attempts"
        assert not self._strays.keys() & set(workers), "a stray's worker has new work"


def _stop(part: Part) -> StopWorker:
    return StopWorker(part.worker, part.trial, part.attempt)
