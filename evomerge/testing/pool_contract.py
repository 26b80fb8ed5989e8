"""What every pool must do; a test class inherits it and supplies ``make_pool``."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import BlockKey, ItemRole
from evomerge.core.trial import Blame, Cause
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    Pool,
    PoolEvent,
    Roster,
    Wishes,
    WorkerLost,
    WorkerReady,
    WorkerSetup,
)
from evomerge.testing.search import SmallStudy

MakePool = Callable[[WorkerSetup], Pool]

BLOCKS = tuple(BlockKey(task, ItemRole.SEARCH, k) for task in "xy" for k in (0, 1))


def until(
    pool: Pool, wanted: type[PoolEvent], limit_s: float = 120.0
) -> list[PoolEvent]:
    """Poll until an event of this kind has come; return all that came."""
    seen: list[PoolEvent] = []
    end = time.monotonic() + limit_s
    while not any(isinstance(event, wanted) for event in seen):
        assert time.monotonic() < end, f"no {wanted.__name__} within {limit_s} s"
        seen += pool.poll(0.5)
    return seen


def work(trial: int = 0, attempt: int = 1, a: float = 0.5) -> Assignment:
    """Return an assignment of the small study."""
    recipe: Recipe = SmallStudy().blueprint.recipe({"a": a, "b": 0.5})
    return Assignment(trial, attempt, recipe, BLOCKS, timeout_s=60.0)


class PoolContract:
    """Behaviour all pools share."""

    @pytest.fixture
    def make_pool(self) -> MakePool:
        """Return a function that makes a pool of one worker."""
        raise NotImplementedError

    @pytest.fixture
    def pool(self, make_pool: MakePool, tmp_path: Path) -> Iterator[Pool]:
        """Return a started pool of healthy workers, closed at the end."""
        opened = make_pool(SmallStudy().setup(tmp_path))
        opened.start()
        yield opened
        opened.close()

    def test_no_worker_is_free_before_it_is_ready(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        """A started pool reports readiness first."""
        pool = make_pool(SmallStudy().setup(tmp_path))
        try:
            assert list(pool.free()) == list(pool.workers()) == []
            pool.start()
            seen = until(pool, WorkerReady)
            names = [e.worker for e in seen if isinstance(e, WorkerReady)]
            assert names == list(pool.free()) == list(pool.workers())
        finally:
            pool.close()

    def test_its_roster_says_who_is_missing(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        """One worker is wanted from the start, and is up once it is ready."""
        pool = make_pool(SmallStudy().setup(tmp_path))
        try:
            pool.start()
            assert (pool.roster().wanted, pool.roster().up) == (1, 0)
            (ready,) = (e for e in until(pool, WorkerReady))
            assert pool.roster() == Roster(wanted=1, up=1)
            assert isinstance(ready, WorkerReady)
            assert {"host", "pid", "python", "versions", "code"} <= ready.facts.keys()
        finally:
            pool.close()

    def test_blocks_arrive_in_order_and_then_the_end(self, pool: Pool) -> None:
        """The events of one attempt come in order."""
        until(pool, WorkerReady)
        (worker,) = pool.free()
        pool.submit(worker, work(trial=7, attempt=3))
        assert list(pool.free()) == []
        assert list(pool.workers()) == [worker]
        seen = until(pool, AttemptDone)
        blocks = [e for e in seen if isinstance(e, BlockScored)]
        assert [e.block for e in blocks] == list(BLOCKS)
        assert {(e.trial, e.attempt) for e in blocks} == {(7, 3)}
        assert list(pool.free()) == [worker]

    def test_a_drained_worker_ends_what_it_has_and_rests_until_it_is_let_back(
        self, pool: Pool
    ) -> None:
        """It answers to the end, is gone then, and another is there afterwards."""
        (ready,) = (e for e in until(pool, WorkerReady) if isinstance(e, WorkerReady))
        (worker,) = pool.free()
        pool.submit(worker, work())
        node = str(ready.facts.get("node_id", ""))
        pool.heed(Wishes(drained={worker: node}))
        assert not any(isinstance(e, WorkerLost) for e in until(pool, AttemptDone))
        assert list(pool.free()) == []
        for _ in range(3):
            assert pool.poll(0.1) == ()
        assert list(pool.workers()) == []
        roster = pool.roster()
        assert (roster.wanted, roster.up) == (0, 0)
        assert roster.missing.startswith("waiting for a drained worker")
        pool.heed(Wishes())
        until(pool, WorkerReady)
        assert len(pool.free()) == 1

    def test_a_failed_candidate_leaves_the_worker_alive(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        """A failure is an answer, and the next assignment can follow."""
        pool = make_pool(SmallStudy(options={"fail_if": 1.0}).setup(tmp_path))
        try:
            pool.start()
            until(pool, WorkerReady)
            (worker,) = pool.free()
            for trial in (0, 1):
                pool.submit(worker, work(trial=trial))
                failed = until(pool, AttemptFailed)[-1]
                assert isinstance(failed, AttemptFailed)
                assert failed.failure.cause is Cause.NON_FINITE
                assert failed.failure.blame is Blame.CANDIDATE
                assert list(pool.free()) == [worker]
        finally:
            pool.close()

    def test_a_cancelled_attempt_gives_no_more_events_and_a_free_worker(
        self, pool: Pool
    ) -> None:
        """Cancelling is silent; a worker is there again afterwards."""
        until(pool, WorkerReady)
        (worker,) = pool.free()
        pool.submit(worker, work(trial=1))
        pool.cancel(worker)
        if not pool.free():
            until(pool, WorkerReady)
        (worker,) = pool.free()
        pool.submit(worker, work(trial=2))
        seen: Sequence[PoolEvent] = until(pool, AttemptDone)
        assert {getattr(event, "trial", 2) for event in seen} == {2}

    def test_a_worker_that_cannot_start_is_a_fatal_loss(
        self, make_pool: MakePool, tmp_path: Path
    ) -> None:
        """What would fail alike everywhere stops the study, with the reason."""
        pool = make_pool(SmallStudy(options={"no_such": 1}).setup(tmp_path))
        try:
            pool.start()
            lost = until(pool, WorkerLost)[-1]
            assert isinstance(lost, WorkerLost)
            assert lost.fatal
            assert "no_such" in lost.failure.message
        finally:
            pool.close()

    def test_closing_twice_is_no_error(self, pool: Pool) -> None:
        """Close is idempotent."""
        pool.close()
        pool.close()
        assert list(pool.free()) == []
