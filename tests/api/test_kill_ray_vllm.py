"""The real thing killed: Ray, vLLM, lm-eval, PostgreSQL, SIGKILL in a generation."""

from pathlib import Path

import pytest
from support.real_study import (
    Watch,
    decided,
    finish,
    running,
    write_real_study,
)

from evomerge.core.trial import Cause, Record, TrialState
from evomerge.store.base import Store
from evomerge.store.sql import open_store

ENGINE = {"kind": "vllm", "max_model_len": 64, "max_num_seqs": 16}


@pytest.mark.engine
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_real_study_killed_in_a_generation_equals_the_undisturbed_one(
    tmp_path: Path, postgres_url: str
) -> None:
    write_real_study(tmp_path, ENGINE, trials=8, block_s=0.1)
    calm, killed = f"sqlite:///{tmp_path}/calm.db", postgres_url
    # Undisturbed, in one process, and in a database of the other kind.
    finish(tmp_path, "run", "calm.yaml", "--in-process", "--db", calm)
    store = open_store(killed)
    where = ("--workers", "1", "--db", killed)
    with running(tmp_path, "run", "real.yaml", *where, salt=2) as process:
        watch = Watch(store, process)
        watch.until(lambda: len(scored(store)) >= 5)  # the baselines and one more
        watch.kill_worker()
        watch.kill_coordinator()  # which is starting another one
    (lost,) = watch.faults()
    assert lost.cause is Cause.WORKER_LOST
    before = scored(store)
    assert 5 <= len(before) < len(store.history(1))  # in a generation
    finish(tmp_path, "resume", "real", "--in-process", "--db", killed)
    assert not store.check()
    store.close()
    assert decided(killed) == decided(calm)


def scored(store: Store) -> list[Record]:
    if not store.studies():
        return []
    return [row for row in store.history(1) if row.state is TrialState.SCORED]
