import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.trial import Blame, Cause, Failure, TrialState
from evomerge.errors import IllegalTransitionError

P, R = TrialState.PENDING, TrialState.RUNNING
S, F, Q = TrialState.SCORED, TrialState.FAILED, TrialState.QUARANTINED
ARROWS = {(P, R), (P, S), (R, S), (R, F), (R, P), (R, Q)}


@pytest.mark.parametrize("old", TrialState)
@pytest.mark.parametrize("new", TrialState)
def test_only_the_steps_of_the_picture_are_allowed(old, new):
    if (old, new) in ARROWS:
        assert old.to(new) is new
    else:
        with pytest.raises(IllegalTransitionError, match=f"{old} trial cannot become"):
            old.to(new)


def test_scored_failed_and_quarantined_are_final():
    assert [s for s in TrialState if s.is_final] == [S, F, Q]


def test_a_refused_step_names_what_is_allowed():
    with pytest.raises(IllegalTransitionError, match="allowed: running, scored"):
        P.to(F)
    with pytest.raises(IllegalTransitionError, match="the state is final"):
        S.to(R)


@given(st.lists(st.sampled_from(list(TrialState)), max_size=20))
def test_no_sequence_of_steps_leaves_a_final_state(steps):
    state, final = P, None
    for step in steps:
        try:
            state = state.to(step)
        except IllegalTransitionError:
            continue
        assert final is None
        if state.is_final:
            final = state


@given(st.sampled_from(list(Cause)), st.sampled_from(list(Blame)), st.text())
def test_failures_survive_json(cause, blame, message):
    failure = Failure(cause, blame, message)
    assert Failure.from_json(failure.to_json()) == failure
