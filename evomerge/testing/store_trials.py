"""What every store must do with generations and attempts."""

# ruff: noqa: D102 - a test's name is its sentence

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evomerge.core.trial import Candidate, Cause, Failure, Trial, TrialState
from evomerge.errors import IllegalTransitionError, StaleAttemptError, StoreError
from evomerge.store.base import (
    AttemptEnd,
    Ending,
    Lease,
    PartBegun,
    PartEnded,
    Report,
    Store,
)
from evomerge.testing.store_samples import (
    BROKEN,
    LOST,
    Opened,
    StoreFixtures,
    answers,
    candidates,
    scored,
    search_block,
    task,
)


class TrialContract(StoreFixtures):
    """Trials live by the state machine, fenced by their attempts."""

    # Generations and trials.

    def test_generations_and_trials_read_back_exactly(
        self, opened: Opened, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store = opened()
        found = store.trials(lease.study_id)
        assert [trial.number for trial in found] == [0, 1, 2, 3, 4]
        assert list(found[1:]) == list(trials)
        assert [t.candidate for t in found[1:]] == candidates(1, 4)
        assert all(
            t.candidate.recipe.digest == c.recipe.digest
            for t, c in zip(found[1:], candidates(1, 4), strict=True)
        )
        assert found[0].candidate.label == "parent a"
        assert found[0].candidate.point is None
        assert store.trial(lease.study_id, 2) == found[2]
        assert store.trials(lease.study_id, generation=0) == found[:1]
        old, new = store.generations(lease.study_id)
        assert (old.number, old.size, old.note) == (0, 1, None)
        assert (new.size, new.memory, new.note) == (4, {"m": 1}, "restart")

    def test_a_new_trial_is_pending_and_empty(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        fresh = store.trial(lease.study_id, 1)
        assert (fresh.state, fresh.attempt) == (TrialState.PENDING, 0)
        assert (fresh.scores, fresh.failure, fresh.worker, fresh.seconds) == (None,) * 4
        assert not fresh.reused

    def test_only_the_next_generation_is_taken(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        with pytest.raises(StoreError, match="recorded already"):
            store.add_generation(lease, 1, candidates(1, 2), {}, None)
        with pytest.raises(StoreError, match="before generation 2"):
            store.add_generation(lease, 3, candidates(3, 2), {}, None)
        with pytest.raises(StoreError, match="candidate 1 of generation 7"):
            store.add_generation(lease, 2, candidates(7, 2)[1:], {}, None)
        assert len(store.trials(lease.study_id)) == 5
        assert len(store.generations(lease.study_id)) == 2

    def test_equal_recipes_may_be_proposed_twice(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        twin = Candidate(2, 0, trials[0].candidate.recipe, {"w": 9})
        other = Candidate(2, 1, trials[0].candidate.recipe, {"w": 8})
        new = store.add_generation(lease, 2, [twin, other], {}, None)
        assert [trial.number for trial in new] == [5, 6]
        assert store.trial(lease.study_id, 6).candidate == other

    def test_a_cut_generation_can_be_extended(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        more = store.extend_generation(lease, 1, candidates(1, 2, 4))
        assert [trial.number for trial in more] == [5, 6]
        assert store.generations(lease.study_id)[1].size == 6
        assert [
            trial.candidate for trial in store.trials(lease.study_id, 1)
        ] == candidates(1, 6)
        with pytest.raises(StoreError, match="Expected candidate 6"):
            store.extend_generation(lease, 1, candidates(1, 2, 8))
        with pytest.raises(StoreError, match="last generation"):
            store.extend_generation(lease, 0, candidates(0, 1, 1))
        assert store.generations(lease.study_id)[1].size == 6

    def test_a_missing_trial_is_named(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        for ask in (
            lambda: store.trial(lease.study_id, 5),
            lambda: store.start_attempt(lease, 5, "w"),
        ):
            with pytest.raises(StoreError, match=r"no trial 5.* has 5"):
                ask()

    # Attempts.

    def test_a_trial_runs_and_is_scored(
        self, opened: Opened, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        assert store.start_attempt(lease, 1, "w1") == 1
        running = opened().trial(lease.study_id, 1)
        assert (running.state, running.attempt) == (TrialState.RUNNING, 1)
        store.end_attempt(lease, 1, 1, scored())
        done = opened().trial(lease.study_id, 1)
        assert (done.state, done.worker) == (TrialState.SCORED, "w1")
        assert (done.scores, done.seconds) == ({"t/acc": 0.1 + 0.2}, {"score": 1.5})

    def test_a_machine_fault_is_tried_again(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w1")
        store.end_attempt(lease, 1, 1, Ending(TrialState.PENDING, None, LOST))
        waiting = store.trial(lease.study_id, 1)
        assert (waiting.state, waiting.failure) == (TrialState.PENDING, LOST)
        assert store.start_attempt(lease, 1, "w2") == 2
        store.end_attempt(lease, 1, 2, scored())
        done = store.trial(lease.study_id, 1)
        assert (done.attempt, done.worker, done.failure) == (2, "w2", None)

    @pytest.mark.parametrize(
        ("state", "failure"),
        [(TrialState.FAILED, BROKEN), (TrialState.QUARANTINED, LOST)],
    )
    def test_a_failure_is_kept(
        self,
        store: Store,
        lease: Lease,
        trials: Sequence[Trial],
        state: TrialState,
        failure: Failure,
    ) -> None:
        store.start_attempt(lease, 1, "w")
        store.end_attempt(lease, 1, 1, Ending(state, None, failure))
        failed = store.trial(lease.study_id, 1)
        assert (failed.state, failed.failure) == (state, failure)
        assert failed.faults == (failure is LOST)
        assert failed.scores is None
        with pytest.raises(IllegalTransitionError):
            store.start_attempt(lease, 1, "w")

    def test_a_running_trial_is_not_started_again(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w")
        with pytest.raises(IllegalTransitionError, match="running"):
            store.start_attempt(lease, 1, "v")
        assert store.trial(lease.study_id, 1).attempt == 1

    def test_a_running_trial_cannot_end_running(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w")
        with pytest.raises(StoreError, match="An attempt ends"):
            store.end_attempt(lease, 1, 1, Ending(TrialState.RUNNING, None, LOST))

    def test_a_late_answer_of_an_old_attempt_is_refused(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        block = search_block(0)
        store.start_attempt(lease, 1, "w")
        store.end_attempt(lease, 1, 1, Ending(TrialState.PENDING, None, LOST))
        for _ in range(2):  # while pending, and while the next attempt runs
            with pytest.raises(StaleAttemptError, match="Attempt 1 at trial 1 is over"):
                store.record(lease, 1, 1, Report({block: answers(block)}))
            with pytest.raises(StaleAttemptError):
                store.end_attempt(lease, 1, 1, scored())
            if store.trial(lease.study_id, 1).state is TrialState.PENDING:
                store.start_attempt(lease, 1, "w")
        recipe = trials[0].candidate.recipe.digest
        assert not store.outcomes(recipe, task().protocol.digest)
        assert store.usage(lease.study_id).items == 0

    def test_a_second_ending_is_refused(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w")
        store.end_attempt(lease, 1, 1, scored())
        with pytest.raises(StaleAttemptError, match="scored"):
            store.end_attempt(lease, 1, 1, scored(0.0))
        assert store.trial(lease.study_id, 1).scores == {"t/acc": 0.1 + 0.2}

    @pytest.mark.parametrize(
        "ending",
        [
            Ending(TrialState.SCORED),
            Ending(TrialState.SCORED, {}),
            Ending(TrialState.SCORED, {"t/acc": float("nan")}),
            Ending(TrialState.SCORED, {"t/acc": 1.0}, BROKEN),
            Ending(TrialState.FAILED),
            Ending(TrialState.FAILED, {"t/acc": 1.0}, BROKEN),
            Ending(TrialState.PENDING),
            Ending(TrialState.PENDING, None, BROKEN),
            Ending(TrialState.FAILED, None, LOST),
            Ending(TrialState.QUARANTINED, None, BROKEN),
        ],
    )
    def test_scores_or_a_failure_never_half_of_each(
        self, store: Store, lease: Lease, trials: Sequence[Trial], ending: Ending
    ) -> None:
        store.start_attempt(lease, 1, "w")
        with pytest.raises(StoreError):
            store.end_attempt(lease, 1, 1, ending)
        assert store.trial(lease.study_id, 1).state is TrialState.RUNNING

    def test_parts_of_an_attempt_are_remembered(
        self, opened: Opened, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        first, second, third = (search_block(k) for k in range(3))
        store.start_attempt(lease, 1, "w")
        begun = [PartBegun(1, "w", (first, second)), PartBegun(2, "v", (third,))]
        for part in begun:
            store.record(lease, 1, 1, Report(begun=part))
        lost = PartEnded(1, AttemptEnd.FAULT, Cause.WORKER_LOST)
        store.record(lease, 1, 1, Report({}, [lost], PartBegun(3, "u", ())))
        store.start_attempt(lease, 2, "t")
        store.record(lease, 2, 1, Report(begun=PartBegun(1, "t", (first,))))
        one, two, three = opened().parts(lease.study_id, 1)
        assert (one.part, one.worker, one.blocks) == (1, "w", (first, second))
        assert (one.end, one.cause) == (AttemptEnd.FAULT, Cause.WORKER_LOST)
        assert one.ended is not None
        assert (two.worker, two.blocks, two.ended, two.end) == (
            "v",
            (third,),
            None,
            None,
        )
        assert three.blocks == ()
        assert one.began <= two.began <= one.ended <= three.began
        assert store.recover(lease) == [1, 2]
        ends = [part.end for part in store.parts(lease.study_id)]
        interrupted = AttemptEnd.INTERRUPTED
        assert ends == [AttemptEnd.FAULT, *[interrupted] * 3]
        with pytest.raises(StaleAttemptError):
            store.record(lease, 1, 1, Report(ended=[lost]))

    def test_known_outcomes_score_a_pending_trial(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.reuse(lease, 1, {"t/acc": 0.5})
        reused = store.trial(lease.study_id, 1)
        assert (reused.state, reused.attempt) == (TrialState.SCORED, 0)
        assert (reused.reused, reused.scores) == (True, {"t/acc": 0.5})
        store.start_attempt(lease, 2, "w")
        for number in (1, 2):
            with pytest.raises(IllegalTransitionError, match="Only a pending"):
                store.reuse(lease, number, {"t/acc": 0.5})

    def test_recovery_makes_running_trials_pending(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        for number in (1, 3):
            store.start_attempt(lease, number, "w")
        store.start_attempt(lease, 2, "w")
        store.end_attempt(lease, 2, 1, scored())
        assert store.recover(lease) == [1, 3]
        assert store.recover(lease) == []
        states = [trial.state.value for trial in store.trials(lease.study_id, 1)]
        assert states == ["pending", "scored", "pending", "pending"]
        with pytest.raises(StaleAttemptError):
            store.end_attempt(lease, 1, 1, scored())
        assert store.start_attempt(lease, 1, "w") == 2
