"""A strategy that holds the search up is noticed; one that does not is left alone."""

from evomerge.search.scoreboard import is_outgrown


def test_asking_for_a_fifth_of_the_scoring_time_is_too_slow() -> None:
    assert is_outgrown(asked_s=4.0, n_candidates=8, trial_s=2.0)
    assert not is_outgrown(asked_s=3.0, n_candidates=8, trial_s=2.0)


def test_what_nobody_notices_is_never_too_slow() -> None:
    assert not is_outgrown(asked_s=0.4, n_candidates=8, trial_s=0.001)
