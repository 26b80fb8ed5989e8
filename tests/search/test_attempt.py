"""Who is blamed for a failed attempt, and whether its trial is tried again."""

from dataclasses import replace

from evomerge.core.flow.stacks import passthrough
from evomerge.core.trial import Blame, Candidate, Cause, Failure, Trial, TrialState
from evomerge.search.attempt import RetryPolicy, judge

POLICY = RetryPolicy(faults=3)
LOST = Failure(Cause.WORKER_LOST, Blame.MACHINE, "gone")
SLOW = Failure(Cause.TIMEOUT, Blame.MACHINE, "too slow")
NAN = Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN in lm_head.weight")


def running(*, attempt: int = 1) -> Trial:
    candidate = Candidate(1, 0, passthrough("a", "a", 2, "float32"))
    return Trial(0, candidate, TrialState.RUNNING, attempt)


def test_the_candidates_own_fault_is_final_at_the_first_attempt() -> None:
    assert judge(running(), NAN, POLICY).state is TrialState.FAILED


def test_a_lost_worker_means_another_try() -> None:
    verdict = judge(running(), LOST, POLICY)
    assert verdict.state is TrialState.PENDING
    assert verdict.failure == LOST


def test_a_trial_whose_machines_keep_failing_is_quarantined() -> None:
    spoilt_twice = replace(running(attempt=3), faults=2)
    verdict = judge(spoilt_twice, LOST, POLICY)
    assert verdict.state is TrialState.QUARANTINED
    assert "Machines failed 3 times" in verdict.failure.message


def test_attempts_that_ended_with_their_coordinator_quarantine_nothing() -> None:
    assert judge(running(attempt=50), LOST, POLICY).state is TrialState.PENDING


def test_what_is_added_to_a_message_stands_before_its_traceback() -> None:
    traced = replace(LOST, message="KeyError: 'a'\nTraceback:\n  line 1")
    spoilt_twice = replace(running(attempt=3), faults=2)
    message = judge(spoilt_twice, traced, POLICY).failure.message
    head, _, rest = message.partition("\n")
    assert head.startswith("KeyError: 'a' Machines failed 3 times")
    assert rest == "Traceback:\n  line 1"


def test_a_first_timeout_is_tried_again_and_a_second_is_the_candidates_fault() -> None:
    assert judge(running(), SLOW, POLICY).state is TrialState.PENDING
    again = replace(running(attempt=2), failure=SLOW)
    verdict = judge(again, SLOW, POLICY)
    assert verdict.state is TrialState.FAILED
    assert verdict.failure.blame is Blame.CANDIDATE


def test_a_timeout_after_a_lost_worker_is_tried_again() -> None:
    again = replace(running(attempt=2), failure=LOST)
    assert judge(again, SLOW, POLICY).state is TrialState.PENDING
