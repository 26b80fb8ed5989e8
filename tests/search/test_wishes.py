"""What others want of a study's workers, done by its coordinator."""

from pathlib import Path

import pytest

from evomerge.core.study import Budget
from evomerge.core.work import Wishes
from evomerge.search import study_run
from evomerge.search.coordinator import Coordinator
from evomerge.search.scoreboard import Progress
from evomerge.store.databases.database import Database
from evomerge.store.owner import this_process
from evomerge.store.queue.workers import Workers
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, decided


def run(folder: Path, watch: object = None) -> list[tuple[object, ...]]:
    folder.mkdir()
    small = SmallStudy(budget=Budget(trials=8))
    store = open_store(f"sqlite:///{folder}/s.db")
    store.create_study("small", {}, {}, small.seed)
    pool = small.pool(folder)
    observer = watch if callable(watch) else None
    Coordinator(small.plan(), store, pool, this_process(), observer).run()
    found = decided(store)
    store.close()
    return found


def test_a_drained_worker_rests_until_it_is_let_back_and_nothing_is_told_otherwise(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_run, "ROSTER_EVERY_S", 0.0)
    monkeypatch.setattr(study_run, "POLL_S", 0.01)
    workers: list[Workers] = []
    seen: list[tuple[str, int]] = []

    def watch(progress: Progress) -> None:
        if not workers:
            workers.append(
                Workers(Database(f"sqlite:///{tmp_path}/it/s.db", create=False))
            )
        rows = workers[0].all()
        state = rows[0].state if rows else "none"
        seen.append((state, progress.done))
        if progress.done == 4 and state == "busy" and ("drained", 4) not in seen:
            workers[0].drain("local-1")
        n_rests = [one for one, _ in seen].count("drained")
        if state == "drained" and n_rests == 5:
            assert progress.roster.missing.startswith("waiting for a drained worker")
            workers[0].undrain("local-1")

    assert run(tmp_path / "it", watch) == run(tmp_path / "other")
    states = [state for state, _ in seen]
    assert states.count("drained") == 5
    assert "draining" in states
    rested = [done for state, done in seen if state == "drained"]
    assert len(set(rested)) == 1  # nothing was done meanwhile
    assert workers[0].all() == []


class _Two:
    """A pool that remembers what is wanted of it."""

    def __init__(self) -> None:
        self.heeded: list[Wishes] = []

    def heed(self, wishes: Wishes) -> None:
        self.heeded.append(wishes)


def test_a_pool_is_told_what_is_wanted_when_it_changes() -> None:
    from evomerge.search.dispatcher import Dispatcher

    pool = _Two()
    crew = Dispatcher(pool)  # type: ignore[arg-type]
    for wishes in (Wishes(), Wishes(3), Wishes(3), Wishes()):
        crew.heed(wishes)
    assert pool.heeded == [Wishes(3), Wishes()]
