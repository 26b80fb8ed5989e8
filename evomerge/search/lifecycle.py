"""The life of the trials of one generation: events in, decisions out, no effects.

The coordinator feeds what happened and carries out what is decided. Every rule about
fencing, blame, retries and timeouts is here, so it can be tested without a clock, a
pool or a database.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from evomerge.core.trial import Blame, Cause, Failure, Trial, TrialState
from evomerge.errors import IllegalTransitionError


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often a trial is tried when machines fail.

    Attributes:
        attempts: Attempts in all before a trial is quarantined.
        timeouts: Timeouts before the candidate itself is blamed.
    """

    attempts: int = 3
    timeouts: int = 2


@dataclass(frozen=True, slots=True)
class Verdict:
    """What becomes of a trial after a failed attempt."""

    state: TrialState
    failure: Failure


def judge(trial: Trial, failure: Failure, policy: RetryPolicy) -> Verdict:
    """Decide what a failed attempt means for its trial.

    The candidate's fault is final. A machine's fault is tried again, until the trial
    has had ``policy.attempts`` attempts. A timeout could be either: it is first put
    down to the machine, and when it repeats, to the candidate.

    Args:
        trial: The running trial; its ``failure`` is that of the attempt before.
        failure: What ended this attempt.
        policy: The limits.
    """
    if failure.blame is Blame.CANDIDATE:
        return Verdict(TrialState.FAILED, failure)
    if failure.cause is Cause.TIMEOUT:
        before = trial.failure is not None and trial.failure.cause is Cause.TIMEOUT
        if policy.timeouts <= 1 or before:
            blamed = replace(
                failure,
                blame=Blame.CANDIDATE,
                message=f"{failure.message} It timed out before, on another worker.",
            )
            return Verdict(TrialState.FAILED, blamed)
    if trial.attempt >= policy.attempts:
        tired = replace(
            failure, message=f"{failure.message} This was attempt {trial.attempt}."
        )
        return Verdict(TrialState.QUARANTINED, tired)
    return Verdict(TrialState.PENDING, failure)


class Lifecycle:
    """The trials of one generation and where each stands; pure bookkeeping.

    A trial whose recipe is being scored by another is held back: when the other ends,
    its outcomes are reused instead of being computed twice.
    """

    def __init__(self, trials: Iterable[Trial]) -> None:
        self._trials = {trial.number: trial for trial in trials}
        self._deadlines: dict[int, float] = {}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, by number."""
        return tuple(self._trials[number] for number in sorted(self._trials))

    @property
    def is_complete(self) -> bool:
        """Every trial has reached a final state."""
        return all(trial.state.is_final for trial in self._trials.values())

    @property
    def running(self) -> tuple[Trial, ...]:
        """The trials that are being scored."""
        return tuple(t for t in self.trials if t.state is TrialState.RUNNING)

    def next_pending(self) -> Trial | None:
        """Return the first pending trial whose recipe nobody is scoring."""
        busy = {trial.candidate.recipe.digest for trial in self.running}
        for trial in self.trials:
            is_pending = trial.state is TrialState.PENDING
            if is_pending and trial.candidate.recipe.digest not in busy:
                return trial
        return None

    def is_current(self, number: int, attempt: int) -> bool:
        """Tell whether an answer belongs to the attempt that is running now."""
        trial = self._trials.get(number)
        return (
            trial is not None
            and trial.state is TrialState.RUNNING
            and trial.attempt == attempt
        )

    def get(self, number: int) -> Trial:
        """Return one trial."""
        return self._trials[number]

    def start(self, number: int, attempt: int, worker: str, deadline: float) -> None:
        """A worker took the trial; the deadline is in the caller's clock, seconds."""
        trial = self._trials[number]
        if attempt <= trial.attempt:
            raise IllegalTransitionError(
                f"Trial {number} had attempt {trial.attempt}; the next must be larger, "
                f"not {attempt}."
            )
        self._trials[number] = replace(
            trial,
            state=trial.state.to(TrialState.RUNNING),
            attempt=attempt,
            worker=worker,
        )
        self._deadlines[number] = deadline

    def end(self, trial: Trial) -> None:
        """The trial ended, or went back to pending, as ``trial`` says."""
        known = self._trials[trial.number]
        if known.state is not trial.state:
            known.state.to(trial.state)
        self._trials[trial.number] = trial
        self._deadlines.pop(trial.number, None)

    def overdue(self, now: float) -> tuple[Trial, ...]:
        """Return the running trials whose deadline has passed."""
        return tuple(t for t in self.running if self._deadlines[t.number] <= now)

    def validate(self) -> None:
        """Check this object's own invariants; for tests.

        Raises:
            AssertionError: Names the trial and the broken rule.
        """
        for trial in self._trials.values():
            is_running = trial.state is TrialState.RUNNING
            assert is_running == (trial.number in self._deadlines), trial
            assert (trial.scores is not None) == (trial.state is TrialState.SCORED), (
                trial
            )
            if trial.state in (TrialState.FAILED, TrialState.QUARANTINED):
                assert trial.failure is not None, trial
            if is_running:
                assert trial.attempt >= 1, trial
        digests = [trial.candidate.recipe.digest for trial in self.running]
        assert len(set(digests)) == len(digests), "one recipe is scored twice at once"
