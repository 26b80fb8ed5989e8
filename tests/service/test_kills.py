"""A supervisor is killed, and what it ran ends as if nothing had happened."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest
from support.databases import KINDS
from support.real_study import finish
from support.searched import contents
from support.study_files import simulated_study, write_models

from evomerge.errors import StudyNotFoundError
from evomerge.service.supervisor import Site, Supervisor
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.job_queue import JobQueue, open_queue
from evomerge.store.queue.submission import Submission
from evomerge.store.queue.values import JobState, Wanted
from evomerge.store.sql import open_store

PATIENCE_S = 150.0
SUPERVISOR = """
import sys
from pathlib import Path
from evomerge.service.supervisor import Site, Supervisor
from evomerge.store.queue.job_queue import open_queue
url, spool, name = sys.argv[1:]
Supervisor(open_queue(url), Site(url, Path(spool)), name).run()
"""


def wait_for(what: Callable[[], object]) -> None:
    end = time.monotonic() + PATIENCE_S
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.5)


def study(models: Path, name: str, seed: int, sleep_s: float = 0.15) -> Bundle:
    options = {"items": 8, "sleep_s": sleep_s}
    task = {"task": "simulated", "metric": "acc", "options": options}
    tasks = {"one": task, "two": task}
    found = simulated_study(
        models,
        name=name,
        seed=seed,
        tasks=tasks,
        objectives=[{"name": "score", "measure": "one/acc"}],
        strategy={"kind": "cma", "generation_size": 4},
        budget={"trials": 12},
    )
    return Bundle({"study.yaml": json.dumps(found).encode()})


def n_done(url: str, name: str) -> int:
    store = open_store(url)
    try:
        history = store.history(store.study(name).id)
        return sum(trial.state.is_final for trial in history)
    except StudyNotFoundError:
        return 0
    finally:
        store.close()


def holder_of(url: str, name: str) -> int:
    """Return the process that has the study's lease."""
    store = open_store(url)
    try:
        holder = store.overview(store.study(name).id)[0].holder
        assert holder is not None
        return holder.pid
    finally:
        store.close()


def is_gone(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return True
    return state in "ZX"


@contextmanager
def supervising(url: str, spool: Path) -> Iterator[None]:
    """Run a supervisor in a thread while the block lasts, and drain it."""
    queue = open_queue(url)
    supervisor = Supervisor(queue, Site(url, spool), "thread")
    thread = threading.Thread(target=supervisor.run)
    thread.start()
    try:
        yield
    finally:
        supervisor.drain()
        thread.join()
        queue.close()


def finished(queue: JobQueue, name: str) -> bool:
    job = queue.get("ann", name)
    assert job.state is not JobState.FAILED, job.why
    return job.state is JobState.FINISHED


def undisturbed(folder: Path, files: Bundle) -> Mapping[str, object]:
    """Return what a study comes to in a database of its own."""
    files.write(folder / "calm")
    url = f"sqlite:///{folder}/calm.db"
    finish(folder / "calm", "run", "study.yaml", "--in-process", "--db", url)
    return contents(url, "going")


@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.long if k != "sqlite" else ()) for k in KINDS],
)
def test_jobs_of_a_killed_supervisor_end_as_undisturbed_ones(
    tmp_path: Path,
    kind: str,
    request: pytest.FixtureRequest,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    models, spool = write_models(tmp_path / "models"), tmp_path / "spool"
    url = f"sqlite:///{tmp_path}/jobs.db"
    if kind == "postgres":
        url = request.getfixturevalue("empty_postgres_url")
    accounts, queue = open_accounts(url), open_queue(url)
    accounts.add_user("ann")
    accounts.close()
    for seed, name in enumerate(("going", "pausing")):
        queue.submit("ann", Submission(name, name, study(models, name, seed)))
    line = [sys.executable, "-c", SUPERVISOR, url, str(spool), "process"]
    with subprocess.Popen(line) as process:
        wait_for(lambda: all(n_done(url, n) >= 2 for n in ("going", "pausing")))
        children = [holder_of(url, name) for name in ("going", "pausing")]
        assert queue.want("ann", "pausing", Wanted.PAUSE).state is JobState.PAUSING
        os.kill(process.pid, signal.SIGKILL)
    killed_at = time.monotonic()
    wait_for(lambda: all(map(is_gone, children)))
    assert all(n_done(url, name) < 12 for name in ("going", "pausing"))
    with supervising(url, spool):
        wait_for(lambda: finished(queue, "going"))
        assert time.monotonic() - killed_at > 10  # when the claim had run out
        assert queue.get("ann", "pausing").state is JobState.PAUSED
        if kind == "postgres":  # where there is time
            queue.resume("ann", "pausing")
            wait_for(lambda: finished(queue, "pausing"))
            assert n_done(url, "pausing") >= 12
    calm = undisturbed(tmp_path, study(models, "going", 0, sleep_s=0.0))
    found = contents(url, "going")
    for part in ("finished", "candidates", "ends", "memory", "items"):
        assert found[part] == calm[part]
    assert queue.get("ann", "going").starts == 2
    kinds = [event.kind for event in queue.events("ann", "going")]
    assert kinds == [
        *("submitted", "claimed", "started"),
        *("supervisor_lost", "claimed", "started", "ended"),
    ]
    queue.close()
    store = open_store(url)
    assert list(store.check()) == []
    store.close()
