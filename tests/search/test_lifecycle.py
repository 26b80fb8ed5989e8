"""Who is tried again, who is blamed, and which answers still count."""

from dataclasses import replace

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from evomerge.core.flow.stacks import passthrough
from evomerge.core.trial import Blame, Candidate, Cause, Failure, Trial, TrialState
from evomerge.errors import IllegalTransitionError
from evomerge.search.lifecycle import Lifecycle, RetryPolicy, judge

POLICY = RetryPolicy(faults=3)
LOST = Failure(Cause.WORKER_LOST, Blame.MACHINE, "gone")
SLOW = Failure(Cause.TIMEOUT, Blame.MACHINE, "too slow")
NAN = Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN in lm_head.weight")


def trial(number: int = 0, *, recipe: str = "a", attempt: int = 1) -> Trial:
    merged = passthrough("a", recipe, 2, "float32")
    return Trial(number, Candidate(1, number, merged), attempt=attempt)


def running(number: int = 0, *, attempt: int = 1) -> Trial:
    return replace(trial(number, attempt=attempt), state=TrialState.RUNNING)


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


def test_an_answer_of_an_older_attempt_is_not_current() -> None:
    life = Lifecycle([trial(0, attempt=0)])
    life.start(0, 1, "w0")
    life.end(replace(life.get(0), state=TrialState.PENDING, failure=LOST))
    life.start(0, 2, "w1")
    assert life.is_current(0, 2)
    assert not life.is_current(0, 1)
    assert not life.is_current(7, 1)


def test_an_attempt_number_never_repeats() -> None:
    life = Lifecycle([trial(0, attempt=2)])
    with pytest.raises(IllegalTransitionError, match="next must be larger"):
        life.start(0, 2, "w0")


def test_a_final_trial_cannot_be_started_again() -> None:
    scored = replace(trial(0), state=TrialState.SCORED, scores={})
    life = Lifecycle([scored])
    with pytest.raises(IllegalTransitionError, match="final"):
        life.start(0, 5, "w0")


def test_an_equal_recipe_waits_until_the_first_is_scored() -> None:
    life = Lifecycle([trial(0, attempt=0), trial(1, attempt=0)])
    life.start(0, 1, "w0")
    assert life.next_pending() is None
    life.end(replace(life.get(0), state=TrialState.SCORED, scores={}))
    waiting = life.next_pending()
    assert waiting is not None
    assert waiting.number == 1


def test_a_retry_is_left_for_another_worker() -> None:
    life = Lifecycle([trial(0, attempt=0), trial(1, recipe="b", attempt=0)])
    life.start(0, 1, "w0")
    life.end(replace(life.get(0), state=TrialState.PENDING, failure=LOST))
    elsewhere, here, anywhere = (life.next_pending(avoid=w) for w in ("w1", "w0", None))
    assert [t and t.number for t in (elsewhere, here, anywhere)] == [0, 1, 0]


class AnyOrder(RuleBasedStateMachine):
    """Starts, answers, deaths and late answers in any order leave it valid."""

    def __init__(self) -> None:
        super().__init__()
        self.life = Lifecycle(trial(n, recipe="abcc"[n], attempt=0) for n in range(4))

    @precondition(lambda self: self.life.next_pending() is not None)
    @rule()
    def start(self) -> None:
        pending = self.life.next_pending()
        assert pending is not None
        self.life.start(pending.number, pending.attempt + 1, "w")

    @precondition(lambda self: bool(self.life.running))
    @rule(pick=st.integers(0, 3))
    def score(self, pick: int) -> None:
        one = self.life.running[pick % len(self.life.running)]
        self.life.end(replace(one, state=TrialState.SCORED, scores={"t/acc": 1.0}))

    @precondition(lambda self: bool(self.life.running))
    @rule(pick=st.integers(0, 3), failure=st.sampled_from([LOST, SLOW, NAN]))
    def fail(self, pick: int, failure: Failure) -> None:
        one = self.life.running[pick % len(self.life.running)]
        verdict = judge(one, failure, POLICY)
        faults = one.faults + (verdict.failure.blame is Blame.MACHINE)
        self.life.end(
            replace(one, state=verdict.state, failure=verdict.failure, faults=faults)
        )

    @precondition(lambda self: bool(self.life.running))
    @rule(pick=st.integers(0, 3))
    def lose_the_coordinator(self, pick: int) -> None:
        one = self.life.running[pick % len(self.life.running)]
        self.life.end(replace(one, state=TrialState.PENDING))

    @rule(number=st.integers(0, 3))
    def late_answer(self, number: int) -> None:
        assert not self.life.is_current(number, self.life.get(number).attempt + 1)

    @invariant()
    def valid(self) -> None:
        self.life.validate()
        for trial in self.life.trials:
            assert trial.faults <= POLICY.faults
            is_tired = trial.state is TrialState.QUARANTINED
            assert is_tired == (
                trial.faults == POLICY.faults and trial.state.is_final
            ), trial


TestAnyOrder = AnyOrder.TestCase
