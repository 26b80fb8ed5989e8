"""The life of the trials of one generation: events in, decisions out, no effects.

The coordinator feeds what happened and carries out what is decided. Every rule about
fencing, blame and retries is here, so it can be tested without a clock, a pool or a
database.
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


class Lifecycle:
    """The trials of one generation and where each stands; pure bookkeeping.

    A trial whose recipe is being scored by another is held back: when the other ends,
    its outcomes are reused instead of being computed twice.
    """

    def __init__(self, trials: Iterable[Trial]) -> None:
        ordered = sorted(trials, key=lambda trial: trial.number)
        self._trials = {trial.number: trial for trial in ordered}
        # Looked at after every event, so it must not hold what is over.
        self._open = {t.number: t for t in ordered if not t.state.is_final}

    @property
    def trials(self) -> tuple[Trial, ...]:
        """Every trial, by number."""
        return tuple(self._trials.values())

    @property
    def is_complete(self) -> bool:
        """Every trial has reached a final state."""
        return not self._open

    @property
    def running(self) -> tuple[Trial, ...]:
        """The trials that are being scored."""
        return tuple(t for t in self._open.values() if t.state is TrialState.RUNNING)

    def next_pending(self, avoid: str | None = None) -> Trial | None:
        """Return the first pending trial whose recipe nobody is scoring.

        Args:
            avoid: A worker; what failed there last is left for others.
        """
        busy = {trial.candidate.recipe.digest for trial in self.running}
        for trial in self._open.values():
            if trial.state is not TrialState.PENDING:
                continue
            failed_here = trial.failure is not None and trial.worker == avoid
            if not failed_here and trial.candidate.recipe.digest not in busy:
                return trial
        return None

    def is_current(self, number: int, attempt: int) -> bool:
        """Tell whether an answer belongs to the attempt that is running now."""
        trial = self._open.get(number)
        return (
            trial is not None
            and trial.state is TrialState.RUNNING
            and trial.attempt == attempt
        )

    def get(self, number: int) -> Trial:
        """Return one trial."""
        return self._trials[number]

    def start(self, number: int, attempt: int, worker: str) -> None:
        """A worker took the trial."""
        trial = self._trials[number]
        if attempt <= trial.attempt:
            raise IllegalTransitionError(
                f"Trial {number} had attempt {trial.attempt}; the next must be larger, "
                f"not {attempt}."
            )
        state = trial.state.to(TrialState.RUNNING)
        self._put(replace(trial, state=state, attempt=attempt, worker=worker))

    def end(self, trial: Trial) -> None:
        """The trial ended, or went back to pending, as ``trial`` says."""
        known = self._trials[trial.number]
        if known.state is not trial.state:
            known.state.to(trial.state)
        self._put(trial)

    def validate(self) -> None:
        """Check this object's own invariants; for tests.

        Raises:
            AssertionError: Names the trial and the broken rule.
        """
        for trial in self._trials.values():
            is_open = not trial.state.is_final
            assert is_open == (self._open.get(trial.number) is trial), trial
            assert (trial.scores is not None) == (trial.state is TrialState.SCORED), (
                trial
            )
            if trial.state in (TrialState.FAILED, TrialState.QUARANTINED):
                assert trial.failure is not None, trial
            if trial.state is TrialState.RUNNING:
                assert trial.attempt >= 1, trial
        digests = [trial.candidate.recipe.digest for trial in self.running]
        assert len(set(digests)) == len(digests), "one recipe is scored twice at once"

    def _put(self, trial: Trial) -> None:
        self._trials[trial.number] = trial
        if trial.state.is_final:
            self._open.pop(trial.number, None)
        else:
            self._open[trial.number] = trial
