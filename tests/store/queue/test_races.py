"""Supervisors in processes of their own want the same jobs at the same time."""

import multiprocessing
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from support.jobs import submission

from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.values import JobState
from evomerge.store.sql import open_store

N_PROCESSES = 8


def race(run: Callable[[int], None]) -> None:
    """Run a function in so many processes at once, each with its number."""
    context = multiprocessing.get_context("fork")
    start = context.Barrier(N_PROCESSES)

    def one(number: int) -> None:
        start.wait()
        run(number)

    racers = [context.Process(target=one, args=(k,)) for k in range(N_PROCESSES)]
    for racer in racers:
        racer.start()
    for racer in racers:
        racer.join()
    assert [racer.exitcode for racer in racers] == [0] * N_PROCESSES


@pytest.mark.timeout(900)
@pytest.mark.parametrize("n_jobs", [24, pytest.param(1000, marks=pytest.mark.long)])
def test_of_many_supervisors_one_gets_a_job(
    n_jobs: int, any_url: str, tmp_path: Path
) -> None:
    accounts, queue = open_accounts(any_url), open_queue(any_url)
    for i in range(3):
        accounts.add_user(f"u{i}", max_running=None if i else 5)
    for i in range(n_jobs):
        queue.submit(f"u{i % 3}", submission(f"j{i}"))
    accounts.close()
    queue.close()  # SQLite's connections do not survive a fork

    def claim_all(number: int) -> None:
        mine = open_queue(any_url)
        names, most = [], 0
        while mine.jobs(states=[JobState.QUEUED], limit=1):
            claim = mine.claim(f"p{number}")
            if claim is None:
                continue
            mine.started(claim)
            held = [JobState.STARTING, JobState.RUNNING]
            most = max(most, len(mine.jobs("u0", held)))
            names.append(claim.job.name)
            mine.ended(claim, ProcessEnd(0))
        mine.close()
        (tmp_path / f"won-{number}").write_text(f"{most}\n" + "\n".join(names))

    race(claim_all)
    told = [file.read_text().splitlines() for file in tmp_path.glob("won-*")]
    won = Counter(name for lines in told for name in lines[1:])
    assert won == Counter(f"j{i}" for i in range(n_jobs))
    assert max(int(lines[0]) for lines in told) <= 5
    queue = open_queue(any_url)
    assert {job.state for job in queue.jobs(limit=500)} == {JobState.FINISHED}
    assert {job.starts for job in queue.jobs(limit=500)} == {1}
    queue.close()
    store = open_store(any_url)
    assert list(store.check()) == []
    store.close()


@pytest.mark.timeout(100)
def test_of_equal_submissions_at_once_one_is_new(any_url: str, tmp_path: Path) -> None:
    accounts = open_accounts(any_url)
    accounts.add_user("ann")
    accounts.close()

    def submit(number: int) -> None:
        queue = open_queue(any_url)
        for i in range(5):
            _, is_new = queue.submit("ann", submission(f"j{i}"))
            if is_new:
                (tmp_path / f"new-{i}-{number}").touch()
            queue.record("ann", f"j{i}", "said", {"by": number})
        queue.close()

    race(submit)
    assert len(list(tmp_path.glob("new-*"))) == 5
    queue = open_queue(any_url)
    for i in range(5):
        numbers = [event.number for event in queue.events("ann", f"j{i}")]
        assert numbers == list(range(1, N_PROCESSES + 2))
    queue.close()
