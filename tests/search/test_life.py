"""Trials lived through lifecycle, executor and store together, in any order of events.

Real bookkeeping over a real database; only the workers are played. After every step
the lifecycle holds what the store holds, and the store keeps all its promises.
"""

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from evomerge.core.study import Budget
from evomerge.core.trial import Blame, Candidate, Cause, Failure, TrialState
from evomerge.core.work import (
    AttemptDone,
    AttemptFailed,
    BlockScored,
    Roster,
    WorkerLost,
    WorkerReady,
)
from evomerge.errors import LeaseLostError
from evomerge.search.attempt import RetryPolicy
from evomerge.search.budget import BudgetWatch
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.executor import Executor
from evomerge.search.lifecycle import Lifecycle
from evomerge.search.messages import GenerationBegan, TasksDescribed, Tick, WorkerIdle
from evomerge.search.scoreboard import Scoreboard
from evomerge.search.sharing import Sharing
from evomerge.store.base import Owner
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.store_samples import BLOCK_SIZE, answers, candidates, task

TIMEOUT_S = 10.0
# Holds a lease like a coordinator of this machine that was killed.
MORTAL = Owner(this_process().host, this_process().pid, "an earlier life")
PICK = st.integers(0, 10**6)
FAILURES = st.sampled_from(
    [
        Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN in slot 3"),
        Failure(Cause.EVALUATION, Blame.CANDIDATE, "the task's code raised"),
        Failure(Cause.OUT_OF_MEMORY, Blame.MACHINE, "no memory is left"),
        Failure(Cause.DISK_FULL, Blame.MACHINE, "no space is left"),
    ]
)


class PlayedPool:
    """Workers that do what the test says."""

    def __init__(self):
        self.names = ["w0", "w1", "w2"]
        self.n_made = 3
        self.busy = {}
        self.events = []

    def start(self):
        self.events += [WorkerReady(name, (task(),), {}) for name in self.names]

    def workers(self):
        return tuple(self.names)

    def free(self):
        return tuple(name for name in self.names if name not in self.busy)

    def roster(self):
        return Roster(len(self.names), len(self.names))

    def heed(self, wishes):
        raise AssertionError("nobody wishes anything")

    def submit(self, worker, assignment):
        assert worker in self.free()
        self.busy[worker] = assignment

    def poll(self, timeout_s):
        events, self.events = self.events, []
        return events

    def replace(self, worker):
        self.busy.pop(worker, None)
        self.names.remove(worker)
        new = f"w{self.n_made}"
        self.n_made += 1
        self.names.append(new)
        self.events.append(WorkerReady(new, (task(),), {}))

    def cancel(self, worker):
        self.replace(worker)

    def close(self):
        self.names = []


class SearchLife(RuleBasedStateMachine):
    def __init__(self, new_url):
        super().__init__()
        self.url = new_url()
        self.now = 0.0
        self.told = []
        self.known = {}

    @initialize()
    def begin(self):
        self.store = open_store(self.url)
        self.study = self.store.create_study("s", {}, {}, 1).id
        self.come_up()
        self.store.record_tasks(self.lease, [task()])
        self.store.add_generation(self.lease, 0, [], {}, None)
        first, second, third = candidates(1, 3)
        twin = Candidate(1, 3, first.recipe, {"w": 7})  # reused, or waits its turn
        new = [first, second, third, twin]
        self.trials = self.store.add_generation(self.lease, 1, new, {}, None)
        self.take_up()

    def come_up(self):
        """What a coordinator does first: lease, recover, read."""
        self.lease = self.store.lease(self.study, MORTAL, 3600)
        self.store.recover(self.lease)
        self.pool = PlayedPool()
        self.crew = Dispatcher(self.pool, lambda: self.now)
        sharing = Sharing()  # a block at a time
        sharing.portions.measured([(1, 10, 1.0), (9, 90, 9.0)])
        sharing.portions.scored([0.1])
        self.life = Lifecycle(TIMEOUT_S, RetryPolicy(), sharing=sharing)
        board = Scoreboard([], [])
        budget = BudgetWatch(Budget(), self.store, self.study)
        self.executor = Executor(
            self.life, self.store, self.lease, self.crew, board, budget
        )
        self.executor.feed(TasksDescribed((task(),)))
        self.crew.start()
        self.take_up()

    def take_up(self):
        trials = tuple(self.store.trials(self.study, 1))
        self.executor.feed(GenerationBegan(trials))

    def at_work(self, pick):
        """Choose a busy worker and its assignment."""
        workers = sorted(self.pool.busy)
        worker = workers[pick % len(workers)]
        return worker, self.pool.busy[worker]

    def happen(self, *events):
        """Events come in together, and are handled like any other."""
        self.pool.events += events
        self.listen()
        self.executor.settle()

    def listen(self):
        for event in self.crew.events(0):
            self.told.append(event)
            if isinstance(event, WorkerReady):
                self.crew.welcome(event.worker)
            else:
                self.handle(event)

    def handle(self, event):
        self.executor.feed(event)
        if isinstance(event, BlockScored):
            digest = self.trials[event.trial].candidate.recipe.digest
            self.known.setdefault(digest, set()).update(o.item for o in event.outcomes)

    @rule()
    def give_work(self):
        self.listen()
        for worker in self.crew.free():
            self.executor.feed(WorkerIdle(worker, self.crew.is_single))
        self.executor.settle()

    @precondition(lambda self: self.pool.busy)
    @rule(pick=PICK, which=PICK)
    def report_a_block(self, pick, which):
        worker, work = self.at_work(pick)
        block = work.blocks[which % len(work.blocks)]
        place = (worker, work.trial, work.attempt)
        self.happen(BlockScored(*place, block, tuple(answers(block)), 0.1))

    @precondition(lambda self: self.pool.busy)
    @rule(pick=PICK, goes_on=st.booleans())
    def finish(self, pick, goes_on):
        """Report every block and the end together; maybe get the next part at once."""
        worker, work = self.at_work(pick)
        place = (worker, work.trial, work.attempt)
        self.pool.events += [
            BlockScored(*place, block, tuple(answers(block)), 0.1)
            for block in work.blocks
        ]
        del self.pool.busy[worker]
        self.pool.events.append(AttemptDone(*place, {"score": 0.3}))
        self.listen()
        if goes_on:
            self.executor.feed(WorkerIdle(worker, self.crew.is_single))
        self.executor.settle()

    @precondition(lambda self: self.pool.busy)
    @rule(pick=PICK)
    def claim_to_be_done(self, pick):
        """The end, whatever was reported."""
        worker, work = self.at_work(pick)
        del self.pool.busy[worker]
        self.happen(AttemptDone(worker, work.trial, work.attempt, {}))

    @precondition(lambda self: self.pool.busy)
    @rule(pick=PICK, failure=FAILURES)
    def fail(self, pick, failure):
        worker, work = self.at_work(pick)
        del self.pool.busy[worker]
        self.happen(AttemptFailed(worker, work.trial, work.attempt, failure))

    @precondition(lambda self: self.pool.busy)
    @rule(pick=PICK)
    def a_worker_dies(self, pick):
        worker, work = self.at_work(pick)
        lost = Failure(Cause.WORKER_LOST, Blame.MACHINE, "killed")
        self.pool.replace(worker)
        self.happen(WorkerLost(worker, work.trial, work.attempt, lost))

    @precondition(lambda self: self.told)
    @rule(pick=PICK)
    def a_report_comes_again(self, pick):
        """Twice, or long after its attempt was over; workers' names are not reused."""
        event = self.told[pick % len(self.told)]
        if not isinstance(event, WorkerReady | WorkerLost):
            self.handle(event)
            self.executor.settle()

    @rule(seconds=st.floats(0.1, 2 * TIMEOUT_S))
    def time_passes(self, seconds):
        self.now += seconds
        self.listen()
        self.executor.feed(Tick(self.now))
        self.executor.settle()

    @rule()
    def the_coordinator_dies_and_another_resumes(self):
        self.store.close()
        self.store = open_store(self.url)
        self.come_up()

    @rule()
    def another_one_takes_over_while_this_one_sleeps(self):
        """As after a clock that jumped; whatever the sleeper does then is refused."""
        sleeper, old = self.executor, self.lease
        parts = self.life.in_flight
        self.come_up()
        for part in parts:
            done = AttemptDone(part.worker, part.trial, part.attempt, {})
            with pytest.raises(LeaseLostError):
                hear(sleeper, done)
        with pytest.raises(LeaseLostError):
            self.store.recover(old)

    @invariant()
    def the_lifecycle_holds_what_the_store_holds(self):
        if not hasattr(self, "life"):
            return
        self.life.validate()
        stored = self.store.history(self.study, 1)
        assert [t.record() for t in self.life.trials] == list(stored)

    @invariant()
    def every_promise_of_the_store_holds(self):
        if not hasattr(self, "life"):
            return
        assert list(self.store.check()) == []
        n_known = 0
        for digest, items in self.known.items():
            found = self.store.outcomes(digest, task().protocol.digest)
            assert items == found.keys()  # nothing lost
            n_known += len(found)
        assert self.store.usage(self.study).items == n_known  # nothing twice
        assert n_known % BLOCK_SIZE == 0

    @invariant()
    def what_is_final_stays(self):
        if not hasattr(self, "life"):
            return
        self.final = getattr(self, "final", {})
        for record in self.store.history(self.study):
            if record.number in self.final:
                assert record == self.final[record.number]
            elif record.state.is_final:
                self.final[record.number] = record
            assert record.state is not TrialState.SCORED or record.scores

    def teardown(self):
        if hasattr(self, "store"):
            self.store.close()


def hear(executor, event):
    executor.feed(event)
    executor.settle()


def live(new_url, n_lives):
    run_state_machine_as_test(
        lambda: SearchLife(new_url),
        settings=settings(
            max_examples=n_lives,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=[HealthCheck.too_slow],
        ),
    )


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_any_order_of_events_leaves_lifecycle_and_store_agreed(new_url):
    live(new_url, 5)


@pytest.mark.long
def test_many_orders_of_events_leave_lifecycle_and_store_agreed(new_url):
    live(new_url, 150)
