"""A Ray of our own that dies, or does not start: noticed, replaced, nothing left."""

import os
import signal
import stat
import time
from pathlib import Path
from typing import Any

import pytest
from support.ray_pools import ray_pool

from evomerge.cluster.leftovers import _processes_of
from evomerge.cluster.ray_connection import Placement, RayConnection
from evomerge.core.work import WorkerLost, WorkerReady
from evomerge.testing.pool_contract import until, work
from evomerge.testing.search import SmallStudy

pytestmark = [
    pytest.mark.ray,
    pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="reads /proc"),
]
NOTICED_S = 30.0


def folder_of(connection: RayConnection) -> Path:
    assert connection._temp_dir is not None
    return Path(connection._temp_dir.name)


def raylet() -> int:
    from ray._private import worker

    pid: int = worker._global_node.all_processes["raylet"][0].process.pid
    return pid


def test_a_start_that_failed_leaves_nothing_and_the_next_keeps_its_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ray._private import services

    monkeypatch.setenv("EVOMERGE_DB", "postgresql://me:hunter2@h/db")
    connection = RayConnection(Placement(run_dir=str(tmp_path), n_workers=1))
    folders: list[Path] = []
    ask = services.get_node

    def too_slow(*given: Any) -> Any:
        folders.append(folder_of(connection))
        if len(folders) == 1:
            assert list(_processes_of(folders[0]))
            raise TimeoutError("the node timed out")
        return ask(*given)

    monkeypatch.setattr(services, "get_node", too_slow)
    connection.connect()
    try:
        monkeypatch.undo()
        assert not folders[0].exists()
        assert not list(_processes_of(folders[0]))
        folder = folder_of(connection)
        assert folder != folders[0]
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        import ray

        assert [job["Entrypoint"] for job in ray._private.state.jobs()] == ["evomerge"]
        environment = Path(f"/proc/{raylet()}/environ").read_bytes()
        assert b"hunter2" not in environment
        assert ray.get(ray.remote(lambda: os.nice(0)).remote()) == os.nice(0)
    finally:
        connection.close()
    assert not list(_processes_of(folder))
    assert not folder.exists()


def test_a_ray_that_dies_is_noticed_and_started_anew(tmp_path: Path) -> None:
    setup = SmallStudy(options={"sleep_s": 0.5}).setup(tmp_path)
    pool = ray_pool(setup, tmp_path)
    try:
        pool.start()
        until(pool, WorkerReady)
        (worker,) = pool.free()
        folder = folder_of(pool._ray)
        pool.submit(worker, work(trial=4, attempt=2))
        os.kill(raylet(), signal.SIGKILL)
        killed = time.monotonic()
        lost = until(pool, WorkerLost)[-1]
        assert time.monotonic() - killed < NOTICED_S
        assert isinstance(lost, WorkerLost)
        assert (lost.trial, lost.attempt, lost.fatal) == (4, 2, False)
        until(pool, WorkerReady)
        assert list(pool.free()) != [worker]
        assert folder_of(pool._ray) != folder
        assert not list(_processes_of(folder))
        assert not folder.exists()
    finally:
        pool.close()
