"""Whatever owners and supervisors do in any order, the queue is as a model says."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)
from support.databases import MakeUrl
from support.jobs import due_now, run_out, submission

from evomerge.errors import ClaimLostError, JobStateError
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.values import Claim, JobState, Wanted
from evomerge.store.sql import open_store

S = JobState
NAMES = st.sampled_from(["a", "b", "c"])
HELD = (S.STARTING, S.RUNNING, S.PAUSING, S.CANCELLING)
CODES = st.sampled_from([0, 1, 2, 3, 75, 76, 143, -9])


@dataclass
class Model:
    """What must be true of a job."""

    state: JobState = S.QUEUED
    wanted: Wanted = Wanted.RUN
    is_due: bool = True
    fruitless: int = 0
    epoch: int = 0

    def end(self, code: int, *, asked: bool, lost: bool = False) -> None:
        """A process ended, or its supervisor was lost."""
        self.is_due = True
        if code == 0 and not lost:
            self.state, self.fruitless = S.FINISHED, 0
        elif self.wanted is Wanted.CANCEL:
            self.state, self.fruitless = S.CANCELLED, 0
        elif code in (2, 3) and not lost:
            self.state = S.FAILED
        elif self.wanted is Wanted.PAUSE:
            self.state = S.PAUSED
        elif asked and not lost:
            self.state = S.QUEUED
        else:
            self.fruitless += 1
            self.state = S.QUEUED if lost else S.WAITING
            self.is_due = lost
            if self.fruitless >= (15 if code == 75 and not lost else 5):
                self.state, self.is_due = S.FAILED, True

    def want(self, wanted: Wanted) -> bool:
        """The owner wants something; return whether it can be had."""
        is_free = self.state in (S.QUEUED, S.WAITING, S.PAUSED)
        if self.state is S.FINISHED:
            return False
        if wanted is Wanted.RUN:
            if self.state is S.CANCELLING:
                return False
            if self.state in (S.PAUSED, S.CANCELLED, S.FAILED):
                self.state, self.is_due, self.fruitless = S.QUEUED, True, 0
        elif wanted is Wanted.PAUSE:
            if self.state in (S.CANCELLING, S.CANCELLED, S.FAILED):
                return False
            self.state = S.PAUSED if is_free else S.PAUSING
        elif self.state is S.FAILED:
            return False
        elif self.state is not S.CANCELLED:
            self.state = S.CANCELLED if is_free else S.CANCELLING
        self.wanted = wanted
        return True


class QueueMachine(RuleBasedStateMachine):
    """Set ``new_url``, which makes a database."""

    new_url: Callable[[], str]
    claims = Bundle("claims")

    def __init__(self) -> None:
        super().__init__()
        self.url = type(self).new_url()
        accounts = open_accounts(self.url)
        accounts.add_user("ann")
        accounts.close()
        self.queue = open_queue(self.url)
        self.jobs: dict[str, Model] = {}

    def teardown(self) -> None:
        for name in self.jobs:
            numbers = [event.number for event in self.queue.events("ann", name)]
            assert numbers == list(range(1, len(numbers) + 1))
        self.queue.close()
        store = open_store(self.url)
        assert list(store.check()) == []
        store.close()

    @rule(name=NAMES)
    def submit(self, name: str) -> None:
        _, is_new = self.queue.submit("ann", submission(name))
        assert is_new == (name not in self.jobs)
        self.jobs.setdefault(name, Model())

    @rule(target=claims, by=st.sampled_from(["one", "two"]))
    def claim(self, by: str) -> Any:
        due = [
            name
            for name, job in self.jobs.items()
            if job.state in (S.QUEUED, S.WAITING) and job.is_due
        ]
        claim = self.queue.claim(by)
        if claim is None:
            assert due == []
            return multiple()
        job = self.jobs[claim.job.name]
        assert claim.job.name in due
        job.state, job.epoch = S.STARTING, claim.epoch
        return claim

    def says(self, claim: Claim, say: Callable[[], object]) -> Model | None:
        """Let a supervisor speak; return the model if it still has the job."""
        job = self.jobs[claim.job.name]
        if job.state in HELD and job.epoch == claim.epoch:
            say()
            return job
        with pytest.raises(ClaimLostError):
            say()
        return None

    @rule(claim=claims)
    def start(self, claim: Claim) -> None:
        job = self.says(claim, lambda: self.queue.started(claim))
        if job is not None and job.state is S.STARTING:
            job.state = S.RUNNING

    @rule(claim=claims)
    def beat(self, claim: Claim) -> None:
        self.says(claim, lambda: self.queue.beat(claim))

    @rule(claim=claims, code=CODES, asked=st.booleans())
    def end(self, claim: Claim, code: int, asked: bool) -> None:
        end = ProcessEnd(code, "said", asked)
        job = self.says(claim, lambda: self.queue.ended(claim, end))
        if job is not None:
            job.end(code, asked=asked)

    @rule(claim=consumes(claims))
    def release(self, claim: Claim) -> None:
        job = self.says(claim, lambda: self.queue.release(claim))
        if job is not None:
            job.state = {
                Wanted.RUN: S.QUEUED,
                Wanted.PAUSE: S.PAUSED,
                Wanted.CANCEL: S.CANCELLED,
            }[job.wanted]
            job.is_due = True

    @rule(name=NAMES, wanted=st.sampled_from(Wanted))
    def want(self, name: str, wanted: Wanted) -> None:
        if name not in self.jobs:
            return
        if self.jobs[name].want(wanted):
            self.queue.want("ann", name, wanted)
        else:
            with pytest.raises(JobStateError):
                self.queue.want("ann", name, wanted)

    @rule(is_dead=st.booleans())
    def sweep(self, is_dead: bool) -> None:
        if is_dead:
            run_out(self.url)
        lost = [n for n, job in self.jobs.items() if job.state in HELD and is_dead]
        assert sorted(job.name for job in self.queue.sweep()) == sorted(lost)
        for name in lost:
            self.jobs[name].end(0, asked=False, lost=True)

    @rule()
    def wait(self) -> None:
        due_now(self.url)
        for job in self.jobs.values():
            job.is_due = True

    @invariant()
    def jobs_are_as_the_model_says(self) -> None:
        found = {job.name: job for job in self.queue.jobs()}
        assert found.keys() == self.jobs.keys()
        for name, job in found.items():
            model = self.jobs[name]
            assert (job.state, job.wanted) == (model.state, model.wanted)
            assert (job.claim_by is not None) == (model.state in HELD)
            if model.state not in (S.CANCELLED, S.FINISHED, S.FAILED):
                assert job.fruitless == model.fruitless


@pytest.mark.timeout(300)
def test_the_queue_is_as_the_model_says(new_url: MakeUrl) -> None:
    class Machine(QueueMachine):
        pass

    Machine.new_url = staticmethod(new_url)
    n_examples = 10 if new_url().startswith("sqlite") else 4
    chosen = settings(max_examples=n_examples, stateful_step_count=25, deadline=None)
    run_state_machine_as_test(Machine, settings=chosen)
