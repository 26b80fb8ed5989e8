"""GPU-hours: what counts, and what becomes of jobs when they are used."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from support.jobs import submission
from support.searched import ask, by_hand

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.study import Budget
from evomerge.core.work import GpuTime, WorkerReady
from evomerge.scoring.evaluator import Evaluator
from evomerge.search import study_run
from evomerge.search.coordinator import Coordinator
from evomerge.search.scoreboard import Progress
from evomerge.store.meter import open_meter
from evomerge.store.owner import this_process
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import JobQueue, open_queue
from evomerge.store.queue.values import JobState, Wanted
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy


@pytest.fixture
def queue(any_url: str) -> Iterator[JobQueue]:
    """Two users of 1.5 GPU-hours each, with a study each."""
    accounts = open_accounts(any_url)
    for name in ("ann", "bob"):
        accounts.add_user(name, max_gpu_hours=1.5)
    accounts.close()
    queue = open_queue(any_url)
    queue.submit("ann", submission("a"))
    queue.submit("bob", submission("axb"))
    yield queue
    queue.close()


def spent(url: str, study: str, hours: float, parts: int = 0, gpus: int = 2) -> None:
    """Record one attempt of so many hours on a worker of so many GPUs."""
    store = open_store(url)
    study_id = store.create_study(study, {}, {}, 1).id
    store.close()
    seconds = hours * 3600
    by_hand(
        url,
        "INSERT INTO em_recipe SELECT '00', 'x' WHERE NOT EXISTS "
        "(SELECT 1 FROM em_recipe)".replace("'x'", "CAST('x' AS BLOB)")
        if url.startswith("sqlite")
        else "INSERT INTO em_recipe VALUES ('00', 'x') ON CONFLICT DO NOTHING",
        f"INSERT INTO em_trial (study_id, number, generation, position, recipe_digest,"
        f" state, attempt, faults, reused, changed) VALUES ({study_id}, 0, 0, 0, '00',"
        f" 'scored', 1, 0, {'0' if url.startswith('sqlite') else 'false'}, 0)",
        f"INSERT INTO em_attempt (study_id, trial, attempt, worker, began, ended)"
        f" VALUES ({study_id}, 0, 1, 'w-{study}', 1000, {1000 + seconds})",
        f"INSERT INTO em_worker (id, node_id, host, ip, versions, resources, state,"
        f" since, seen) VALUES ('w-{study}', '', '', '', '{{}}',"
        f" '{{\"gpus\": {gpus}}}', 'ready', 0, 0)",
        *(
            f"INSERT INTO em_part (study_id, trial, attempt, part, worker, blocks,"
            f" began, ended) VALUES ({study_id}, 0, 1, {part}, 'w-{study}', '[]',"
            f" 1000, {1000 + seconds / parts})"
            for part in range(parts)
        ),
    )


def test_hours_are_counted_for_each_gpu_of_all_stages(
    queue: JobQueue, any_url: str
) -> None:
    spent(any_url, "a.one", 0.25)
    spent(any_url, "a.two", 0.25, parts=4)
    assert queue.gpu_hours("ann") == pytest.approx(1.0)
    assert queue.gpu_hours("bob") == 0.0
    queue.pause_beyond()
    assert {job.state for job in queue.jobs()} == {JobState.QUEUED}


def test_jobs_beyond_the_hours_are_paused_with_the_reason(
    queue: JobQueue, any_url: str
) -> None:
    claims = [queue.claim("one"), queue.claim("one")]
    assert all(claims)
    spent(any_url, "a", 0.8)
    queue.pause_beyond()
    assert queue.get("ann", "a").state is JobState.PAUSING
    assert queue.get("bob", "axb").state is JobState.STARTING
    mine = next(claim for claim in claims if claim and claim.job.user == "ann")
    job = queue.ended(mine, ProcessEnd(143, asked=True))
    assert job.state is JobState.PAUSED
    assert job.why is not None
    assert job.why.startswith("ann's GPU-hours are used: 1.6 of 1.5")
    queue.resume("ann", "a")
    assert queue.claim("one") is None
    again = queue.get("ann", "a")
    assert (again.state, again.wanted) == (JobState.PAUSED, Wanted.PAUSE)
    assert again.why is not None
    by_hand(any_url, "UPDATE em_user SET max_gpu_hours = 3")
    assert queue.resume("ann", "a").why is None
    assert queue.claim("one") is not None
    assert ask(any_url, "SELECT count(*) FROM em_job WHERE state = 'paused'") == 0


class _OnTwo(Evaluator):
    """An evaluator that says it has two GPUs of a node."""

    def ready(self, worker: str) -> WorkerReady:
        found = super().ready(worker)
        return replace(found, facts={**found.facts, "node_id": "n1", "gpus": 2})


def test_what_is_left_of_the_hours_is_known_to_every_study_of_the_user(
    queue: JobQueue, any_url: str
) -> None:
    spent(any_url, "a.one", 0.25, parts=1)
    spent(any_url, "a.two", 0.25, gpus=4)
    store = open_store(any_url)
    one, two = (store.study(f"a.{name}").id for name in ("one", "two"))
    left = store.wishes(two).gpu_time
    assert left is not None
    assert left.left_s / 3600 == pytest.approx(1.5 - 0.5 - 1.0)
    assert left.elsewhere == 0.0
    by_hand(any_url, "UPDATE em_part SET began = began + 1e12, ended = NULL")
    assert [store.wishes(key).gpu_time for key in (one, two)] == [
        GpuTime(pytest.approx(0.5 * 3600), 0.0),
        GpuTime(pytest.approx(0.5 * 3600), 2.0),
    ]
    by_hand(any_url, "UPDATE em_user SET max_gpu_hours = NULL")
    assert store.wishes(two).gpu_time is None
    store.close()


def test_a_search_begins_nothing_beyond_the_hours_and_goes_on_when_there_are_more(
    any_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_run, "ROSTER_EVERY_S", 1.0)
    accounts, queue = open_accounts(any_url), open_queue(any_url)
    limit_s, block_s = 2.0, 0.1
    accounts.add_user("ann", max_gpu_hours=limit_s / 3600)
    accounts.close()
    queue.submit("ann", submission("small"))
    small = SmallStudy(budget=Budget(trials=20), options={"sleep_s": block_s}, blocks=2)
    store = open_store(any_url)
    store.create_study("small", {}, {}, small.seed)
    used: list[float] = []

    def watch(progress: Progress) -> None:
        used.append(3600 * queue.gpu_hours("ann"))
        if used[-1] > limit_s - 0.1 and used[-20:] == [used[-1]] * 20:  # it rests
            by_hand(any_url, "UPDATE em_user SET max_gpu_hours = 1")

    pool = InProcessPool(lambda: _OnTwo(small.setup(tmp_path)), "w0-ab")
    Coordinator(small.plan(), store, pool, this_process(), watch).run()
    rest = next(x for i, x in enumerate(used) if used[i : i + 20] == [x] * 20)
    assert limit_s - 0.1 < rest
    query = "SELECT max(ended - began) FROM em_part"
    longest_s = float(str(ask(any_url, query)))
    assert rest < limit_s + 2 * longest_s + 0.1
    assert len(store.history(store.study("small").id)) >= 20
    for opened in (store, queue):
        opened.close()


def test_what_limits_and_what_is_told_are_the_same_hours(
    any_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(study_run, "ROSTER_EVERY_S", 0.0)
    accounts, queue = open_accounts(any_url), open_queue(any_url)
    accounts.add_user("ann")
    queue.submit("ann", submission("small"))
    small, store = SmallStudy(budget=Budget(trials=8)), open_store(any_url)
    store.create_study("small", {}, {}, small.seed)
    pool = InProcessPool(lambda: _OnTwo(small.setup(tmp_path)), "w0-ab")
    Coordinator(small.plan(), store, pool, this_process()).run()
    meter = open_meter(any_url)
    told = meter.read().users["ann"]
    assert told.gpu_s == pytest.approx(2 * told.worker_s)
    assert told.gpu_s > 0
    assert queue.gpu_hours("ann") * 3600 == pytest.approx(told.gpu_s)
    for opened in (meter, store, queue, accounts):
        opened.close()
