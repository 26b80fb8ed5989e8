"""Whether a trial's row and its attempts tell one legal story."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from evomerge.core.trial import Blame, Record, TrialState
from evomerge.store.values import Attempt, AttemptEnd, Fault

_FINAL_ENDS = (AttemptEnd.SCORED, AttemptEnd.FAILED)


def check_trial(where: str, record: Record, *, last: int) -> Iterator[Fault]:
    """Look at a trial's row alone.

    Args:
        where: Names it.
        record: The row.
        last: The study's last generation; earlier ones are over.
    """
    state, failure = record.state, record.failure
    is_scored = state is TrialState.SCORED
    if is_scored != (record.scores is not None):
        yield Fault(where, f"is {state} with scores {record.scores}")
    if is_scored and failure is not None:
        yield Fault(where, f"is scored with a failure ({failure.cause})")
    if state is TrialState.FAILED and (
        failure is None or failure.blame is not Blame.CANDIDATE
    ):
        yield Fault(where, f"is failed, but not by the candidate's fault: {failure}")
    if state is TrialState.QUARANTINED and (
        failure is None or failure.blame is not Blame.MACHINE
    ):
        yield Fault(where, f"is quarantined, but not by a machine's fault: {failure}")
    if record.reused and not is_scored:
        yield Fault(where, f"is {state}, but marked as reused")
    if record.generation < last and not state.is_final:
        yield Fault(where, f"is {state}, but generation {last} came after its own")


def check_attempts(
    where: str, record: Record, attempts: Sequence[Attempt]
) -> Iterator[Fault]:
    """Compare a trial's row with its attempts, oldest first."""
    numbers = [attempt.attempt for attempt in attempts]
    if numbers != list(range(1, record.attempt + 1)):
        yield Fault(where, f"had {record.attempt} attempts, {numbers} are recorded")
        return
    ends = [attempt.end for attempt in attempts]
    is_running = record.state is TrialState.RUNNING
    open_ones = [a.attempt for a in attempts if a.ended is None or a.end is None]
    if open_ones != ([record.attempt] if is_running else []):
        yield Fault(where, f"is {record.state}, but attempts {open_ones} are open")
    if any(end in _FINAL_ENDS for end in ends[:-1]):
        yield Fault(where, f"went on after a final attempt: {_words(ends)}")
    expected = _last_ends(record)
    if ends and not is_running and ends[-1] not in expected:
        yield Fault(where, f"is {record.state}, but its attempts ended {_words(ends)}")
    if not ends and record.state.is_final and not record.reused:
        yield Fault(where, f"is {record.state} without an attempt")
    n_faults = ends.count(AttemptEnd.FAULT)
    n_unknown = ends.count(AttemptEnd.UNKNOWN)
    if record.faults != n_faults and not n_unknown:
        yield Fault(where, f"counts {record.faults} faults, its attempts {n_faults}")


def _last_ends(record: Record) -> tuple[AttemptEnd, ...]:
    """Return how the last attempt may have ended, by the trial's state."""
    unknown = AttemptEnd.UNKNOWN
    waiting = (AttemptEnd.FAULT, AttemptEnd.INTERRUPTED, unknown)
    if record.reused:
        return waiting
    return {
        TrialState.SCORED: (AttemptEnd.SCORED, unknown),
        TrialState.FAILED: (AttemptEnd.FAILED, unknown),
        TrialState.QUARANTINED: (AttemptEnd.FAULT, unknown),
    }.get(record.state, waiting)


def _words(ends: Sequence[AttemptEnd | None]) -> str:
    return ", ".join(end.value if end else "not" for end in ends)
