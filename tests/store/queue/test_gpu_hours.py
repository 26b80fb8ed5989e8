"""GPU-hours: what counts, and what becomes of jobs when they are used."""

from collections.abc import Iterator

import pytest
from support.jobs import submission
from support.searched import ask, by_hand

from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import JobQueue, open_queue
from evomerge.store.queue.values import JobState, Wanted
from evomerge.store.sql import open_store


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
