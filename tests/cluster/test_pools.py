"""Pools: the contract on each, and what only separate processes can suffer."""

import os
import signal
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support.ray_pools import ray_here, ray_pool

from evomerge.cluster import actors
from evomerge.cluster import ray_pool as ray_pool_module
from evomerge.cluster.inprocess import InProcessPool
from evomerge.cluster.watch import Seen, Watch
from evomerge.core.study import Budget
from evomerge.core.work import AttemptDone, PoolEvent, WorkerLost, WorkerReady
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.pool_contract import MakePool, PoolContract, until, work
from evomerge.testing.search import SmallStudy

__all__ = ["ray_here"]  # a fixture


class TestInProcess(PoolContract):
    @pytest.fixture
    def make_pool(self) -> MakePool:
        return lambda setup: InProcessPool(lambda: Evaluator(setup))


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
class TestRay(PoolContract):
    @pytest.fixture
    def make_pool(self, tmp_path: Path) -> MakePool:
        return lambda setup: ray_pool(setup, tmp_path)


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_a_killed_worker_is_a_loss_with_its_attempt_and_is_replaced(
    tmp_path: Path,
) -> None:
    setup = SmallStudy(options={"sleep_s": 30.0}).setup(tmp_path)
    pool = ray_pool(setup, tmp_path)
    try:
        pool.start()
        until(pool, WorkerReady)
        (worker,) = pool.free()
        pid = pool.pids()[worker]
        pool.submit(worker, work(trial=4, attempt=2))
        time.sleep(0.5)
        os.kill(pid, signal.SIGKILL)
        lost = until(pool, WorkerLost)[-1]
        assert isinstance(lost, WorkerLost)
        assert (lost.trial, lost.attempt, lost.fatal) == (4, 2, False)
        until(pool, WorkerReady)
        assert list(pool.free()) != [worker]
    finally:
        pool.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_their_number_follows_the_cluster_up_and_down(tmp_path: Path) -> None:
    """The actors are real; how many cores the machine has is pretended."""
    pool = ray_pool(SmallStudy().setup(tmp_path), tmp_path, None)
    n_cores = [1.0]
    seen: list[PoolEvent] = []

    def look() -> Seen:
        (machine,) = actors.look().machines.values()
        has = replace(machine, cpus=n_cores[0] / 2, memory=2**40)  # half a core each
        return Seen({machine.node.id: has})

    def up_to(n_workers: int) -> list[str]:
        n_cores[0] = n_workers
        end = time.monotonic() + 120
        while len(pool.workers()) != n_workers or pool.roster().wanted != n_workers:
            assert time.monotonic() < end
            seen.extend(pool.poll(0.2))
        return list(pool.workers())

    try:
        pool.start()
        pool._watch.stop()
        pool._watch = Watch(look)
        pool._watch.start()
        (first,) = up_to(1)
        two = up_to(2)
        assert first in two
        pool.submit(first, work())
        assert up_to(1) == [first]  # it is at work, or was
        while not isinstance(seen[-1], AttemptDone):
            seen += until(pool, AttemptDone)
        assert list(pool.free()) == [first]
        assert not any(isinstance(event, WorkerLost) for event in seen)
    finally:
        pool.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_workers_whose_results_do_not_arrive_are_told_with_the_address(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_pool_module, "CALL_BACK_S", -1.0)  # they are always late
    pool = ray_pool(SmallStudy().setup(tmp_path), tmp_path)
    try:
        pool.start()
        lost = until(pool, WorkerLost)[-1]
        assert isinstance(lost, WorkerLost)
        assert (lost.fatal, lost.futile) == (True, False)
        assert "cannot call back to the coordinator at " in str(lost.failure)
        assert "--node-ip-address" in lost.failure.message
    finally:
        pool.close()


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_two_workers_give_what_one_gives(tmp_path: Path) -> None:
    small = SmallStudy(budget=Budget(trials=8))
    found = []
    for n_workers in (0, 2):
        store = open_store(f"sqlite:///{tmp_path}/{n_workers}.db")
        plan = replace(small.plan(), name=f"n{n_workers}")
        store.create_study(plan.name, {}, {}, plan.seed)
        pool = (
            ray_pool(small.setup(tmp_path), tmp_path, n_workers)
            if n_workers
            else small.pool(tmp_path)
        )
        Coordinator(plan, store, pool, this_process()).run()
        trials = store.trials(store.study(plan.name).id)
        found.append([(t.number, t.candidate, t.scores) for t in trials])
        store.close()
    assert found[0] == found[1]


@pytest.mark.ray
@pytest.mark.usefixtures("ray_here")
def test_an_assignment_runs_on_ray_to_its_end(tmp_path: Path) -> None:
    pool = ray_pool(SmallStudy().setup(tmp_path), tmp_path)
    try:
        pool.start()
        until(pool, WorkerReady)
        pool.submit(pool.free()[0], work())
        done = until(pool, AttemptDone)[-1]
        assert isinstance(done, AttemptDone)
        assert set(done.seconds) == {"materialise", "swap", "score"}
    finally:
        pool.close()
