"""Killed at any moment, a study resumes to exactly what it would have been."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from evomerge.core.trial import TrialState
from evomerge.store.sql import open_store
from evomerge.testing.search import TwoWeights

N_TRIALS = 22


def run(tmp_path: Path, name: str, strategy: str, kill_at: int, salt: int) -> int:
    command = [
        *(sys.executable, "-m", "evomerge.testing.doomed"),
        f"sqlite:///{tmp_path}/{name}.db",
        str(tmp_path),
        *(strategy, str(N_TRIALS), str(kill_at)),
    ]
    environment = {**os.environ, "PYTHONHASHSEED": str(salt)}
    done = subprocess.run(
        command, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode in (0, -signal.SIGKILL), done.stderr
    return done.returncode


def contents(tmp_path: Path, name: str) -> dict[str, object]:
    store = open_store(f"sqlite:///{tmp_path}/{name}.db")
    study = store.study("small")
    trials = store.trials(study.id)
    tasks = store.tasks(study.id) or ()
    outcomes = {
        (t.number, task.manifest.task): dict(
            store.outcomes(t.candidate.recipe.digest, task.protocol.digest)
        )
        for t in trials
        if t.state is TrialState.SCORED
        for task in tasks
    }
    found = {
        "candidates": [t.candidate for t in trials],
        "ends": [(t.state, t.scores) for t in trials],
        "memory": [(g.number, g.memory, g.note) for g in store.generations(study.id)],
        "outcomes": outcomes,
        "items": store.usage(study.id).items,
    }
    store.close()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["cma", "tpe", "nsga2"])
def test_a_study_killed_again_and_again_equals_the_undisturbed_one(
    strategy: str, tmp_path: Path
) -> None:
    assert run(tmp_path, "calm", strategy, kill_at=0, salt=0) == 0
    rng = np.random.default_rng(11)
    n_kills = 0
    while run(tmp_path, "killed", strategy, int(rng.integers(2, 28)), n_kills + 1):
        n_kills += 1
        assert n_kills < 60
    assert n_kills >= 4
    calm = contents(tmp_path, "calm")
    killed = contents(tmp_path, "killed")
    assert killed == calm
    assert len(calm["candidates"]) == N_TRIALS + 2  # type: ignore[arg-type]
    blueprint = TwoWeights()
    assert all(
        c.recipe == blueprint.recipe(c.point)
        for c in killed["candidates"]  # type: ignore[attr-defined]
        if c.point is not None
    )
