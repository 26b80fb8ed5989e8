"""The database goes away and comes back: nothing is lost, and nothing differs."""

import logging
import time
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from support.postgres import Server, running
from support.shaky import ShakyStore

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.trial import TrialState
from evomerge.core.work import Assignment, AttemptDone, PoolEvent, WorkerReady
from evomerge.errors import LeaseLostError, StoreUnreachableError
from evomerge.exit_codes import ExitCode, exit_code_of
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator, Outage, Patience
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, decided

HASTY = Patience(limit_s=60, first_s=0.0, longest_s=0.0)
GONE = StoreUnreachableError("Database x: the server is gone.")


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/study.db")
    yield opened
    opened.close()


def search(
    store: Store, small: SmallStudy, pool: InProcessPool, patience: Patience = HASTY
) -> str:
    plan = small.plan()
    coordinator = Coordinator(plan, store, pool, this_process(), patience=patience)
    return coordinator.run()


def add(store: Store, small: SmallStudy) -> None:
    store.create_study("small", small.config, {}, small.seed)


@pytest.mark.parametrize(
    "seed", [0, *(pytest.param(seed, marks=pytest.mark.long) for seed in (1, 2, 3))]
)
@pytest.mark.parametrize("strategy", ["cma", "tpe", "nsga2", "random"])
def test_a_study_whose_database_comes_and_goes_equals_the_undisturbed_one(
    store: Store, tmp_path: Path, strategy: str, seed: int
) -> None:
    small = SmallStudy(
        StrategySettings(strategy, 4),
        Budget(trials=10),
        options={"fail_if": 0.2, "break_if": 0.3, "fault_times": 1},
        objectives=("x", "y") if strategy == "nsga2" else ("x",),
    )
    calm = open_store(f"sqlite:///{tmp_path}/calm.db")
    add(calm, small)
    search(calm, small, small.pool(tmp_path / "calm"))
    add(store, small)
    shaky = ShakyStore(store, np.random.default_rng(seed), share=0.08)
    search(shaky, small, small.pool(tmp_path / "shaky"))
    assert shaky.n_before > 0
    assert shaky.n_after > 0
    assert decided(store) == decided(calm)
    assert contents(store) == contents(calm)
    calm.close()


class Unplugged(InProcessPool):
    """Kills the database's server at some events; it is back a while later."""

    server: Server
    helper: ThreadPoolExecutor
    moments: set[int]
    n_events = 0
    back: Future[None] | None = None

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        events = super().poll(timeout_s)
        self.n_events += len(events)
        if self.n_events in self.moments:
            self.moments.remove(self.n_events)
            if self.back is not None:
                self.back.result()
            self.server.kill()
            self.back = self.helper.submit(self._restart)
        return events

    def _restart(self) -> None:
        time.sleep(0.5)
        self.server.start()


@pytest.mark.slow
def test_a_search_outlives_the_deaths_of_its_database_server(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = SmallStudy(StrategySettings("cma", 4), Budget(trials=10))
    add(store, small)
    search(store, small, small.pool(tmp_path / "calm"))
    # The server dies with the thread that started it, so one thread does it all.
    with running() as server, ThreadPoolExecutor(max_workers=1) as helper:
        served = open_store(server.database())
        add(served, small)
        setup = small.setup(tmp_path)
        pool = Unplugged(lambda: Evaluator(setup))
        pool.server, pool.helper, pool.moments = server, helper, {3, 17, 18, 40}
        search(served, small, pool, Patience(limit_s=60))
        assert not pool.moments
        assert decided(served) == decided(store)
        assert contents(served) == contents(store)
        assert served.check() == []
        served.close()
    assert len([m for m in caplog.messages if "answers again" in m]) >= 3


def test_outages_at_one_trial_quarantine_nothing(store: Store, tmp_path: Path) -> None:
    small = SmallStudy(budget=Budget(trials=2))
    add(store, small)

    class Away(ShakyStore):
        n_times = 0

        def end_attempt(self, *arguments: Any) -> None:
            self.n_times += 1
            if self.n_times <= 5:
                raise GONE
            store.end_attempt(*arguments)

        def outcomes_under(self, _: str, ways: Iterable[str]) -> dict[str, Any]:
            # Known ones would be reused, which needs no further attempt.
            return {way: {} for way in ways}

    search(Away(store), small, small.pool(tmp_path))
    first = store.trials(store.study("small").id)[0]
    assert first.state is TrialState.SCORED
    assert (first.attempt, first.faults) == (6, 0)


def contents(store: Store) -> list[Any]:
    """The outcomes, the budget used and the strategy's memory."""
    study = store.study("small")
    outcomes = [
        dict(store.outcomes(t.candidate.recipe.digest, task.protocol.digest))
        for t in store.trials(study.id)
        if t.state is TrialState.SCORED
        for task in store.tasks(study.id) or ()
    ]
    memory = [(g.size, g.memory) for g in store.generations(study.id)]
    return [*outcomes, *memory, store.usage(study.id).items, study.finished]


class Slow(InProcessPool):
    """A worker that is at the same attempt until it is let go; it counts its lives."""

    n_lives = 0
    is_held = False
    cancelled: list[tuple[int, int]]

    def start(self) -> None:
        self.n_lives += 1
        self.cancelled = []
        self.sent: list[tuple[int, int]] = []
        super().start()

    def submit(self, worker: str, assignment: Assignment) -> None:
        self.sent.append((assignment.trial, assignment.attempt))
        super().submit(worker, assignment)

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        return () if self.is_held and self._work is not None else super().poll(0)

    def cancel(self, worker: str) -> None:
        self.cancelled.append(self.sent[-1])
        self.is_held = False
        super().cancel(worker)


def slow_pool(small: SmallStudy, tmp_path: Path) -> Slow:
    setup = small.setup(tmp_path)
    return Slow(lambda: Evaluator(setup))


def test_the_pool_stays_up_and_late_answers_are_not_taken(
    store: Store, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = SmallStudy(budget=Budget(trials=2))
    add(store, small)
    pool = slow_pool(small, tmp_path)
    shaky = ShakyStore(store, at=("record", 2))
    with caplog.at_level(logging.INFO, "evomerge"):
        search(shaky, small, pool)
    assert pool.n_lives == 1
    assert pool.sent[:2] == [(0, 1), (0, 2)]
    late = [r for r in caplog.messages if r.startswith("late answer for trial 0 att")]
    assert len(late) == 4  # the blocks and the end of the first attempt
    assert all(row[2] is TrialState.SCORED for row in decided(store))
    assert [r for r in caplog.messages if "Waiting up to 60 s" in r]


def test_a_worker_that_hangs_at_an_attempt_of_before_is_stopped(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=2), timeout_s=0.3)
    add(store, small)
    pool = slow_pool(small, tmp_path)

    def hold() -> None:
        pool.is_held = True

    shaky = ShakyStore(store, at=("record", 2), then=hold)
    search(shaky, small, pool)
    assert pool.cancelled == [(0, 1)]
    trials = store.trials(store.study("small").id)
    assert all(trial.state is TrialState.SCORED for trial in trials)
    assert trials[0].faults == 0


def test_a_worker_that_came_while_the_database_was_away_is_welcomed_after(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=2))
    add(store, small)
    shaky = ShakyStore(store, at=("record_tasks", 1))
    search(shaky, small, small.pool(tmp_path))
    assert len(store.events(store.study("small").id, "worker")) == 1
    assert all(row[2] is TrialState.SCORED for row in decided(store))


def test_a_database_that_stays_away_ends_the_run_with_the_next_step(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=2))
    add(store, small)
    patience = Patience(limit_s=0.05, first_s=0.01, longest_s=0.02)
    gone = ShakyStore(store, at=("start_attempt", 2))
    gone._then = lambda: setattr(gone, "is_away", True)
    pool = small.pool(tmp_path)
    with pytest.raises(StoreUnreachableError, match="evomerge resume small") as raised:
        search(gone, small, pool, patience)
    assert "All that was recorded is kept" in str(raised.value)
    assert pool.workers() == ()
    search(store, small, small.pool(tmp_path))
    assert all(row[2] is TrialState.SCORED for row in decided(store))


def test_a_study_that_another_took_over_meanwhile_is_left_to_it(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=2))
    add(store, small)
    heir = replace(this_process(), pid=1, started="")
    study = store.study("small")
    leases = []

    class Watched(ShakyStore):
        """Another coordinator comes while ours scores its first block."""

        def record(self, *arguments: Any) -> None:
            if not leases:
                leases.append(arguments[0])
                store.release(arguments[0])
                store.lease(study.id, heir, 30)
            store.record(*arguments)

    with pytest.raises(LeaseLostError, match="taken over") as raised:
        search(Watched(store), small, small.pool(tmp_path))
    assert exit_code_of(raised.value) is ExitCode.LEASE_LOST
    assert decided(store)[0][2] is TrialState.RUNNING  # the heir's to recover


def test_pauses_grow_to_the_longest_and_end_at_the_limit() -> None:
    now, pauses = [100.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += seconds

    patience = Patience(limit_s=20, first_s=0.5, longest_s=4)
    outage = Outage("s", patience, clock=lambda: now[0], sleep=sleep)
    for _ in range(8):
        outage.wait(GONE)
    with pytest.raises(StoreUnreachableError, match="has not answered for 20 s"):
        outage.wait(GONE)
    assert pauses == [0.5, 1, 2, 4, 4, 4, 4, 0.5]


def test_a_second_outage_has_its_own_patience(caplog: pytest.LogCaptureFixture) -> None:
    now, pauses = [0.0], []

    def sleep(seconds: float) -> None:
        pauses.append(seconds)
        now[0] += 8

    outage = Outage("s", Patience(limit_s=20), clock=lambda: now[0], sleep=sleep)
    for _ in range(3):
        outage.wait(GONE)
        outage.wait(GONE)
        outage.over()
    assert pauses == [0.2, 0.4] * 3
    assert len([m for m in caplog.messages if "Waiting up to 20 s" in m]) == 3
    assert "answers again, after 16.0 s" in caplog.text


def test_what_was_not_handled_when_the_database_went_is_handled_after() -> None:
    from evomerge.search.dispatcher import Dispatcher

    ready = WorkerReady("w0", (), {})
    done = AttemptDone("w0", 0, 1, {})

    class Two(InProcessPool):
        def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
            return (ready, done)

        def workers(self) -> Sequence[str]:
            return ("w0",)

    crew = Dispatcher(Two(lambda: None))  # type: ignore[arg-type,return-value]
    for _ in crew.events(0):
        break
    assert list(crew.events(0)) == [done]
    assert list(crew.newcomers()) == [ready]
