"""An attempt at a trial: what is held of it, and what its end means for the trial."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace

from evomerge.core.cost import Speed
from evomerge.core.scoring_protocol import BlockKey
from evomerge.core.trial import Blame, Cause, Failure, Trial, TrialState
from evomerge.errors import IllegalTransitionError
from evomerge.search.messages import WorkerIdle
from evomerge.search.required_items import Known
from evomerge.store.base import Ending


@dataclass(slots=True)
class Part:
    """What one worker is at of an attempt.

    Attributes:
        began: In seconds, of the clock that ticks.
        left: The blocks handed out that it has not reported.
        clock: Tokens and seconds of those that it has.
    """

    worker: str
    trial: int
    attempt: int
    began: float
    left: set[BlockKey]
    clock: Speed = field(default_factory=Speed)


@dataclass(frozen=True, slots=True)
class Starting:
    """A pending trial that is chosen for a worker, while the store is asked.

    Attributes:
        idle: What it was chosen for.
        known: What was read of its outcomes; None before.
        blocks: What of them is missing.
    """

    trial: Trial
    idle: WorkerIdle
    known: Known | None = None
    blocks: tuple[BlockKey, ...] = ()

    @property
    def workers(self) -> Collection[str]:
        """Whom it keeps busy."""
        return (self.idle.worker,)

    def reused(self, scores: Mapping[str, float]) -> Trial:
        """Return the trial as it ends when every outcome was known."""
        state = self.trial.state.to(TrialState.SCORED)
        return replace(
            self.trial, state=state, scores=scores, failure=None, reused=True
        )

    def running(self, attempt: int, now: float) -> Running:
        """Return the attempt with its one part.

        Raises:
            IllegalTransitionError: It was not asked for, or had its number before.
        """
        trial, worker = self.trial, self.idle.worker
        if self.known is None or attempt <= trial.attempt:
            raise IllegalTransitionError(
                f"Trial {trial.number} had attempt {trial.attempt}; the next must be "
                f"larger, and what is known be read before, not {attempt}."
            )
        state = trial.state.to(TrialState.RUNNING)
        taken = replace(trial, state=state, attempt=attempt, worker=worker)
        part = Part(worker, trial.number, attempt, now, set(self.blocks))
        return Running(taken, self.known, {worker: part})


@dataclass(frozen=True, slots=True)
class Running:
    """An attempt, all of it.

    Attributes:
        known: The outcomes of before and of this attempt, added as they come.
        parts: By worker.
    """

    trial: Trial
    known: Known
    parts: dict[str, Part]

    @property
    def workers(self) -> Collection[str]:
        """Whom it keeps busy."""
        return self.parts.keys()

    def ended(self, ending: Ending) -> Trial:
        """Return the trial as the store has it after this end."""
        trial, failure = self.trial, ending.failure
        is_fault = failure is not None and failure.blame is Blame.MACHINE
        return replace(
            trial,
            state=trial.state.to(ending.state),
            scores=ending.scores,
            failure=failure,
            seconds=ending.seconds,
            faults=trial.faults + is_fault,
        )


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a trial is tried when machines fail.

    Attributes:
        faults: Attempts that machines may spoil before a trial is quarantined.
    """

    faults: int = 3


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a trial after a failed attempt."""

    state: TrialState
    failure: Failure


def judge(trial: Trial, failure: Failure, policy: RetryPolicy) -> Verdict:
    """Decide what a failed attempt means for its trial.

    The candidate's fault is final. A machine's fault is tried again, until machines
    have spoilt ``policy.faults`` attempts; attempts that ended because a coordinator
    died do not count. A timeout could be either: it is first put down to the machine,
    and when it repeats, to the candidate.

    Args:
        trial: The running trial; its ``failure`` is that of the attempt before.
        failure: What ended this attempt.
        policy: The limits.
    """
    if failure.blame is Blame.CANDIDATE:
        return Verdict(TrialState.FAILED, failure)
    timed_out_before = (
        trial.failure is not None and trial.failure.cause is Cause.TIMEOUT
    )
    if failure.cause is Cause.TIMEOUT and timed_out_before:
        blamed = replace(
            failure,
            blame=Blame.CANDIDATE,
            message=f"{failure.message} It had timed out before.",
        )
        return Verdict(TrialState.FAILED, blamed)
    n_faults = trial.faults + 1
    if n_faults >= policy.faults:
        # In the first line: the lines after it may be a traceback.
        head, line_end, rest = failure.message.partition("\n")
        head += f" Machines failed {n_faults} times on this trial: not tried again."
        tired = replace(failure, message=head + line_end + rest)
        return Verdict(TrialState.QUARANTINED, tired)
    return Verdict(TrialState.PENDING, failure)
