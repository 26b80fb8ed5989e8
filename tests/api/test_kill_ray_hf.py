"""Coordinators and workers killed on Ray, in a study of real weights."""

import sys
from pathlib import Path

import pytest
from support.ray_pools import ray_here
from support.real_study import (
    Watch,
    decided,
    finish,
    running,
    write_real_study,
)

from evomerge.core.trial import Cause
from evomerge.store.sql import open_store
from evomerge.store.values import AttemptEnd

__all__ = ["ray_here"]  # a fixture

N_LOCAL = 3
N_KILLS = 5


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("ray_here")
def test_coordinators_and_workers_killed_in_turn_leave_the_undisturbed_study(
    tmp_path: Path, postgres_url: str
) -> None:
    write_real_study(tmp_path, {"kind": "hf"}, trials=16, block_s=0.15)
    calm = f"sqlite:///{tmp_path}/calm.db"
    # Undisturbed, in one process, and in a database of the other kind.
    finish(tmp_path, "run", "calm.yaml", "--in-process", "--db", calm)
    store = open_store(postgres_url)
    words = ("run", "real.yaml")
    for life in range(N_KILLS):
        # First on a Ray of each one's own, then on one that outlives them.
        address = () if life < N_LOCAL else ("--address", kept_address())
        where = ("--workers", "2", "--db", postgres_url, *address)
        with running(tmp_path, *words, *where, salt=2 + life) as process:
            watch = Watch(store, process)
            watch.kill_worker()
            watch.until(watch.at_work)
            watch.kill_coordinator()
        assert not store.check()
        words = ("resume", "real")
    finish(tmp_path, *words, "--in-process", "--db", postgres_url)
    attempts = store.attempts(store.study("real").id)
    lost = [a for a in attempts if a.end is AttemptEnd.FAULT]
    n_cut = len([a for a in attempts if a.end is AttemptEnd.INTERRUPTED])
    sys.stdout.write(
        f"{N_KILLS} coordinators and {len(lost)} workers killed; {n_cut} attempts "
        "interrupted\n"
    )
    assert len(lost) == N_KILLS
    assert {attempt.cause for attempt in lost} == {Cause.WORKER_LOST}
    assert n_cut >= N_KILLS
    assert not store.check()
    store.close()
    assert decided(postgres_url) == decided(calm)


def kept_address() -> str:
    import ray

    return ray.get_runtime_context().gcs_address
