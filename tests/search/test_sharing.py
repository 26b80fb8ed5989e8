"""Several workers at one trial: what comes out is what one alone finds."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.trial import Blame, Cause, Failure
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    PoolEvent,
    Roster,
    Wishes,
    WorkerLost,
)
from evomerge.scoring.evaluator import Evaluator
from evomerge.search import study_run
from evomerge.search.coordinator import Coordinator
from evomerge.search.portions import Portions
from evomerge.search.sharing import Sharing
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, decided

SMALL = SmallStudy(
    StrategySettings("tpe", 4),
    Budget(trials=20),
    {"items": 120, "fail_if": 0.1, "error_if": 0.1, "fault_block": 3},
    blocks=6,
)
N_BLOCKS = 12
"""Of a trial."""


def by_two(*, is_on: bool, times_by_block: bool) -> Sharing:
    """Give out two blocks at a time; helping costs next to nothing."""
    portions = Portions(n_measured=0)
    portions.measured([(2, 20, 2.0), (10, 100, 10.0)])
    portions.scored([0.001])
    return Sharing(is_on=is_on, times_by_block=times_by_block, portions=portions)


class Crowd:
    """Workers inside this process, which take turns by chance; some are lost."""

    def __init__(self, small: SmallStudy, folder: Path, lost_if: float = 0.0) -> None:
        setup = small.setup(folder)
        self._make: Callable[[str], InProcessPool] = lambda name: InProcessPool(
            lambda: Evaluator(setup), name
        )
        self._pools = {name: self._make(name) for name in ("w0", "w1", "w2")}
        self._at: dict[str, Assignment] = {}
        self._n_made = 3
        self._luck = np.random.default_rng(5)
        self._lost_if = lost_if

    def start(self) -> None:
        for pool in self._pools.values():
            pool.start()

    def free(self) -> Sequence[str]:
        return [name for pool in self._pools.values() for name in pool.free()]

    def workers(self) -> Sequence[str]:
        return [name for pool in self._pools.values() for name in pool.workers()]

    def roster(self) -> Roster:
        return Roster(wanted=3, up=len(self.workers()))

    def heed(self, wishes: Wishes) -> None:
        """Let nothing change; nobody wishes anything."""

    def submit(self, worker: str, assignment: Assignment) -> None:
        self._pools[worker].submit(worker, assignment)
        self._at[worker] = assignment

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        for name in self._luck.permutation(list(self._pools)):
            work = self._at.get(name)
            if work is not None and self._luck.random() < self._lost_if:
                self.cancel(name)
                gone = Failure(Cause.WORKER_LOST, Blame.MACHINE, "gone")
                return (WorkerLost(name, work.trial, work.attempt, gone),)
            if events := self._pools[name].poll(timeout_s):
                if isinstance(events[0], AttemptDone):
                    del self._at[name]
                return events
        return ()

    def cancel(self, worker: str) -> None:
        self._pools.pop(worker).close()
        self._at.pop(worker, None)
        name = f"w{self._n_made}"
        self._n_made += 1
        self._pools[name] = self._make(name)
        self._pools[name].start()

    def close(self) -> None:
        for pool in self._pools.values():
            pool.close()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[Callable[[str], Store]]:
    stores = []

    def opened(name: str) -> Store:
        stores.append(open_store(f"sqlite:///{tmp_path}/{name}.db"))
        return stores[-1]

    yield opened
    for store in stores:
        store.close()


def search(store: Store, folder: Path, *, shares: bool, lost_if: float = 0.0) -> None:
    plan = replace(
        SMALL.plan(), shares_trials=shares, objectives=SMALL.plan().objectives
    )
    store.create_study(plan.name, SMALL.config, {}, plan.seed)
    crowd = Crowd(SMALL, folder, lost_if)
    reason = Coordinator(plan, store, crowd, this_process()).run()
    assert reason == "trial budget used"
    assert list(store.check()) == []


def content(store: Store) -> list[object]:
    """Return what of a study must not depend on who scored what."""
    study = store.study("small")
    outcomes = [
        dict(store.outcomes(t.candidate.recipe.digest, task.protocol.digest))
        for t in store.trials(study.id)
        for task in store.tasks(study.id) or ()
        if t.scores is not None
    ]
    memory = [(g.number, g.size, g.memory) for g in store.generations(study.id)]
    scored = sum(len(known) for known in outcomes)
    assert scored > 0
    return [decided(store), outcomes, memory, study.finished]


def test_a_search_that_is_shared_finds_what_one_that_is_not_does(
    opened: Callable[[str], Store], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_run, "Sharing", by_two)
    alone, together, troubled = (opened(n) for n in ("alone", "together", "troubled"))
    search(alone, tmp_path / "a", shares=False)
    search(together, tmp_path / "b", shares=True)
    search(troubled, tmp_path / "c", shares=True, lost_if=0.01)
    assert content(alone) == content(together) == content(troubled)
    study = together.study("small").id
    parts = together.parts(study)
    by_attempt = {(part.trial, part.attempt): set[str]() for part in parts}
    for part in parts:
        by_attempt[part.trial, part.attempt].add(part.worker)
    assert any(len(workers) == 3 for workers in by_attempt.values())
    whole = alone.parts(alone.study("small").id)
    assert all(len(part.blocks) == N_BLOCKS for part in whole)
    assert any(t.faults for t in troubled.trials(troubled.study("small").id))
