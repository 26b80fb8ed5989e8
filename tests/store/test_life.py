"""Any sequence of reports, deaths and take-overs leaves the store as a model says."""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    rule,
    run_state_machine_as_test,
)

from evomerge.core.scoring_protocol import scores_of
from evomerge.core.trial import Blame, Cause, Failure, TrialState
from evomerge.errors import (
    IllegalTransitionError,
    LeaseLostError,
    StaleAttemptError,
    StudyLockedError,
)
from evomerge.store.base import Ending, Owner, Report
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.store_samples import (
    BLOCK_SIZE,
    N_BLOCKS,
    answers,
    candidates,
    search_block,
    task,
)

N_TRIALS = 3
LOST = Failure(Cause.WORKER_LOST, Blame.MACHINE, "gone")
NUMBERS = st.integers(0, N_TRIALS - 1)
ATTEMPTS = st.integers(1, 4)
BLOCKS = st.integers(0, N_BLOCKS - 1)
BROKEN = Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN")
ENDINGS = st.sampled_from(
    [
        Ending(TrialState.PENDING, None, LOST),
        Ending(TrialState.FAILED, None, BROKEN),
        Ending(TrialState.QUARANTINED, None, LOST),
    ]
)
SCORES = scores_of(
    [task()],
    {"t": {o.item: o for i in range(N_BLOCKS) for o in answers(search_block(i))}},
)
DEAD = Owner(this_process().host, this_process().pid, "an earlier life")


class StoreLife(RuleBasedStateMachine):
    """The model: per trial a state, an attempt and the blocks that are known."""

    def __init__(self, new_url):
        super().__init__()
        self.url = new_url()

    @initialize()
    def begin(self):
        self.store = open_store(self.url)
        self.study = self.store.create_study("s", {}, {}, 1).id
        self.lease = self.store.lease(self.study, DEAD, 3600)
        self.old_leases = []
        self.store.record_tasks(self.lease, [task()])
        self.store.add_generation(self.lease, 0, [], {}, None)
        self.recipes = candidates(1, N_TRIALS)
        self.store.add_generation(self.lease, 1, self.recipes, {}, None)
        self.trials = [(TrialState.PENDING, 0)] * N_TRIALS
        self.blocks = [set() for _ in range(N_TRIALS)]

    def is_running(self, number, attempt):
        return self.trials[number] == (TrialState.RUNNING, attempt)

    @rule(number=NUMBERS)
    def start(self, number):
        state, attempt = self.trials[number]
        if state is TrialState.PENDING:
            assert self.store.start_attempt(self.lease, number, "w") == attempt + 1
            self.trials[number] = (TrialState.RUNNING, attempt + 1)
        else:
            with pytest.raises(IllegalTransitionError):
                self.store.start_attempt(self.lease, number, "w")

    @rule(
        number=NUMBERS,
        attempt=ATTEMPTS,
        blocks=st.sets(BLOCKS),
        is_latest=st.booleans(),
    )
    def report(self, number, attempt, blocks, is_latest):
        attempt = self.trials[number][1] if is_latest else attempt
        found = {search_block(block): answers(search_block(block)) for block in blocks}
        call = (self.lease, number, attempt, Report(found))
        if self.is_running(number, attempt):
            self.store.record(*call)
            self.blocks[number] |= blocks
        else:
            with pytest.raises(StaleAttemptError):
                self.store.record(*call)

    @rule(number=NUMBERS, attempt=ATTEMPTS, ending=ENDINGS, is_latest=st.booleans())
    def end(self, number, attempt, ending, is_latest):
        attempt = self.trials[number][1] if is_latest else attempt
        if self.is_running(number, attempt):
            self.store.end_attempt(self.lease, number, attempt, ending)
            self.trials[number] = (ending.state, attempt)
        else:
            with pytest.raises(StaleAttemptError):
                self.store.end_attempt(self.lease, number, attempt, ending)

    @rule(number=NUMBERS)
    def score(self, number):
        """Report what is missing, and the end."""
        _, attempt = self.trials[number]
        for block in range(N_BLOCKS):
            self.report(number, attempt, {block}, is_latest=True)
        ending = Ending(TrialState.SCORED, SCORES)
        self.end(number, attempt, ending, is_latest=True)

    @rule(number=NUMBERS)
    def reuse(self, number):
        state, attempt = self.trials[number]
        if state is not TrialState.PENDING:
            with pytest.raises(IllegalTransitionError):
                self.store.reuse(self.lease, number, SCORES)
        elif len(self.blocks[number]) == N_BLOCKS:
            self.store.reuse(self.lease, number, SCORES)
            self.trials[number] = (TrialState.SCORED, attempt)

    @rule()
    def die_and_take_over(self):
        """The holder's process is gone: the next one leases at once and recovers."""
        self.store.close()
        self.store = open_store(self.url)
        self.old_leases.append(self.lease)
        self.lease = self.store.lease(self.study, DEAD, 3600)
        running = [
            n for n, (state, _) in enumerate(self.trials) if state is TrialState.RUNNING
        ]
        assert self.store.recover(self.lease) == running
        for number in running:
            self.trials[number] = (TrialState.PENDING, self.trials[number][1])

    @rule()
    def a_living_holder_is_left_alone(self):
        self.old_leases.append(self.lease)
        self.lease = self.store.lease(self.study, this_process(), 3600)
        with pytest.raises(StudyLockedError):
            self.store.lease(self.study, DEAD, 3600)
        self.store.release(self.lease)
        self.old_leases.append(self.lease)
        self.lease = self.store.lease(self.study, DEAD, 3600)

    @rule(number=NUMBERS, ending=ENDINGS)
    def an_old_coordinator_wakes_up(self, number, ending):
        attempt = self.trials[number][1]
        block = search_block(0)
        for old in self.old_leases[-2:]:
            for write in (
                lambda old=old: self.store.start_attempt(old, number, "ghost"),
                lambda old=old: self.store.record(
                    old, number, attempt, Report({block: answers(block)})
                ),
                lambda old=old: self.store.end_attempt(old, number, attempt, ending),
                lambda old=old: self.store.recover(old),
            ):
                with pytest.raises(LeaseLostError):
                    write()

    @invariant()
    def the_store_is_as_the_model_says(self):
        trials = self.store.trials(self.study)
        assert [(t.state, t.attempt) for t in trials] == self.trials
        for trial, candidate, blocks in zip(
            trials, self.recipes, self.blocks, strict=True
        ):
            assert trial.candidate == candidate
            assert (trial.scores is not None) == (trial.state is TrialState.SCORED)
            known = self.store.outcomes(candidate.recipe.digest, task().protocol.digest)
            assert known.keys() == {
                o.item for block in blocks for o in answers(search_block(block))
            }
        assert list(self.store.check()) == []
        n_blocks = sum(map(len, self.blocks))
        assert self.store.usage(self.study).items == n_blocks * BLOCK_SIZE

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    "n_lives",
    [
        pytest.param(6, marks=pytest.mark.slow),
        pytest.param(60, marks=[pytest.mark.long, pytest.mark.timeout(3600)]),
    ],
)
def test_any_order_of_calls_leaves_the_store_as_the_model_says(new_url, n_lives):
    run_state_machine_as_test(
        lambda: StoreLife(new_url),
        settings=settings(
            max_examples=n_lives,
            stateful_step_count=25,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )
