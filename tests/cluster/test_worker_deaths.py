"""Workers that really die, in the middle of a whole search on Ray."""

import os
import signal
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from support.ray_pools import ray_here, ray_pool

from evomerge import api
from evomerge.cluster.ray_connection import Placement
from evomerge.cluster.ray_pool import RayPool
from evomerge.core.study import Budget
from evomerge.core.work import (
    BlockScored,
    PoolEvent,
    WorkerLost,
    WorkerReady,
    WorkerSetup,
)
from evomerge.scoring.simulated.landscape import uniform
from evomerge.search.coordinator import Coordinator
from evomerge.search.scoreboard import Progress
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.pool_contract import until
from evomerge.testing.search import SmallStudy, decided

__all__ = ["ray_here"]  # a fixture
pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_here")]

SMALL = SmallStudy(budget=Budget(trials=6))
N_WORKERS = 2


class DoomedPool(RayPool):
    """Strikes the worker that answers first, and counts who is there.

    Work begins when all workers are there: on a busy machine one alone would else be
    through with it before the next has started.
    """

    strike: Callable[[str], None] | None = None

    def __init__(self, setup: WorkerSetup, placement: Placement) -> None:
        super().__init__(setup, placement)
        self.process: dict[str, int] = {}
        self.n_at_end: int | None = None
        self.is_complete = False

    def free(self) -> Sequence[str]:
        self.is_complete = self.is_complete or len(self.workers()) == N_WORKERS
        return super().free() if self.is_complete else ()

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        events = super().poll(timeout_s)
        for event in events:
            if isinstance(event, WorkerReady):
                self.process[event.worker] = event.facts["pid"]
            if isinstance(event, BlockScored) and self.strike is not None:
                strike, self.strike = self.strike, None
                strike(event.worker)
        return events

    def close(self) -> None:
        if self.n_at_end is None:
            self.n_at_end = len(self._slots)
        super().close()


def search(tmp_path: Path, small: SmallStudy, pool: DoomedPool) -> list[Progress]:
    seen: list[Progress] = []
    store = open_store(f"sqlite:///{tmp_path}/study.db")
    plan = small.plan()
    store.create_study(plan.name, small.config, {}, plan.seed)
    Coordinator(plan, store, pool, this_process(), seen.append).run()
    store.close()
    return seen


def doomed_pool(tmp_path: Path, small: SmallStudy) -> DoomedPool:
    placement = Placement(str(tmp_path / "run"), n_workers=N_WORKERS, cpus=0.5)
    return DoomedPool(small.setup(tmp_path), placement)


def calm(tmp_path: Path, small: SmallStudy) -> Store:
    """Return the store after the same study, undisturbed and in this process."""
    store = open_store(f"sqlite:///{tmp_path}/calm.db")
    plan = small.plan()
    store.create_study(plan.name, small.config, {}, plan.seed)
    Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    return store


def sigkill(pool: DoomedPool) -> Callable[[str], None]:
    return lambda worker: os.kill(pool.process[worker], signal.SIGKILL)


def ray_kill(pool: DoomedPool) -> Callable[[str], None]:
    import ray

    return lambda worker: ray.kill(pool._slots[worker].actor)


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (sigkill, "its process was killed, possibly for memory, or crashed."),
        (ray_kill, "its actor was killed by hand."),
    ],
)
def test_a_worker_that_dies_at_work_is_replaced_and_its_trial_tried_again(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, how: Any, words: str
) -> None:
    small = replace(SMALL, options={"sleep_s": 0.2})
    pool = doomed_pool(tmp_path, small)
    pool.strike = how(pool)
    search(tmp_path, small, pool)
    assert pool.strike is None
    url = f"sqlite:///{tmp_path}/study.db"
    store, undisturbed = open_store(url), calm(tmp_path, small)
    assert decided(store) == decided(undisturbed)
    store.close()
    undisturbed.close()
    rows = sorted((row.attempt, row.faults) for row in api.trials("small", db=url))
    assert rows == [(1, 0)] * 7 + [(2, 1)]
    told = [m for m in caplog.messages if "worker lost (machine's fault): " in m]
    assert len(told) == 1
    assert words in told[0]
    assert told[0].endswith("-> pending")
    assert pool.n_at_end == N_WORKERS


def only_one(kind: str, recipes: Sequence[str]) -> float:
    """Return the share with which a fault strikes exactly one of the recipes."""
    first, second, *_ = sorted(uniform(kind, recipe) for recipe in recipes)
    return (first + second) / 2


@pytest.mark.timeout(180)
def test_a_poison_candidate_and_one_that_hangs_end_and_the_study_goes_on(
    tmp_path: Path,
) -> None:
    store = calm(tmp_path, SMALL)
    recipes = [row[1].recipe.digest for row in decided(store)]
    store.close()
    share = {kind: only_one(kind, recipes) for kind in ("crash", "hang")}
    options = {f"{kind}_if": value for kind, value in share.items()}
    small = replace(SMALL, options=options, timeout_s=4.0)
    pool = doomed_pool(tmp_path, small)
    seen = search(tmp_path, small, pool)

    url = f"sqlite:///{tmp_path}/study.db"
    rows = {row.recipe: row for row in api.trials("small", db=url)}
    dead, hung = (
        rows[next(r for r in recipes if uniform(kind, r) < share[kind])]
        for kind in ("crash", "hang")
    )
    assert dead.number != hung.number
    assert (dead.state, dead.attempt, dead.faults) == ("quarantined", 3, 3)
    assert dead.failure is not None
    first = dead.failure.partition("\n")[0]
    assert first.startswith("worker lost (machine's fault): Worker w")
    assert first.endswith("Machines failed 3 times on this trial: not tried again.")
    assert (hung.state, hung.attempt, hung.faults) == ("failed", 2, 1)
    assert hung.failure is not None
    assert hung.failure.startswith("timed out (candidate's fault): Attempt 2 on w")
    status = api.status("small", db=url)
    assert status.causes == {"worker lost": 1, "timed out": 1}
    assert status.counts["scored"] == 6
    assert pool.n_at_end == N_WORKERS
    assert {progress.roster.wanted for progress in seen} == {N_WORKERS}
    assert max(progress.workers for progress in seen) == N_WORKERS


def test_three_workers_in_a_row_that_never_became_ready_stop_the_study(
    tmp_path: Path,
) -> None:
    import ray

    pool = ray_pool(SMALL.setup(tmp_path), tmp_path)
    pool.start()
    losses: list[WorkerLost] = []
    try:
        for _ in range(3):
            assert pool.workers() == []
            for slot in pool._slots.values():
                ray.kill(slot.actor)
            losses += until(pool, WorkerLost)
        assert [lost.fatal for lost in losses] == [False, False, True]
        assert len({lost.worker for lost in losses}) == 3
    finally:
        pool.close()
