"""A study of real models and a real task, searched by the command line.

Three tiny models, sums to answer, and a made-up task beside them that takes as long as
a test wants, so that there is time to strike.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from evomerge import api
from evomerge.cli.app import main
from evomerge.core.trial import TrialState
from evomerge.store.base import Attempt, Store
from evomerge.store.sql import open_store
from evomerge.store.values import AttemptEnd
from evomerge.testing.models import tiny_model

NAME = "real"
_PATIENCE_S = 240.0
SUMS_TASK = """\
task: sums
dataset_path: json
dataset_kwargs: {data_files: {test: sums.jsonl}}
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "{{q}}="
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
"""A task of sums to choose between; its items lie beside it in ``sums.jsonl``."""


def write_real_study(
    folder: Path, engine: Mapping[str, Any], trials: int, block_s: float
) -> None:
    """Write models, task and two study files: ``calm.yaml`` and ``real.yaml``.

    Args:
        folder: Where.
        engine: As in a study file.
        trials: The budget.
        block_s: Seconds that a block of the made-up task takes in ``real.yaml``; in
            ``calm.yaml`` it takes none. They are equal otherwise.
    """
    for seed, name in enumerate(("base", "a", "b")):
        tiny_model(folder / name, tied=False, seed=seed)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "sums.yaml").write_text(SUMS_TASK)
    rows = [
        {"q": f"{k}+{k}", "choices": [str(2 * k), str(3 * k + 1)], "answer": k % 2}
        for k in range(40)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tasks" / "sums.jsonl").write_text(lines)
    for name, seconds in (("calm", 0.0), (NAME, block_s)):
        pace = {"items": 8, "sleep_s": seconds}
        study = {
            "name": NAME,
            "seed": 5,
            "sources": {source: source for source in ("base", "a", "b")},
            "dtype": "float32",
            "space": {
                "operator": "task_arithmetic",
                "base": "base",
                "experts": ["a", "b"],
                "knobs": {"weight": {"low": 0.0, "high": 1.0}},
            },
            "tasks": {
                "sums": {"task": "sums", "include": "tasks", "metric": "acc"},
                "pace": {"task": "simulated", "metric": "acc", "options": pace},
            },
            "objectives": [{"name": "score", "measure": "sums/acc"}],
            "items": {"blocks": 4},
            "strategy": {"kind": "cma", "generation_size": 4},
            "engine": dict(engine),
            "budget": {"trials": trials},
        }
        (folder / f"{name}.yaml").write_text(json.dumps(study))


@contextmanager
def running(folder: Path, *words: str, salt: int) -> Iterator[subprocess.Popen[str]]:
    """Run a command in a process of its own, which ends with the block at latest.

    Args:
        folder: Where.
        words: The command.
        salt: Of the process's hashes.
    """
    environment = {
        **os.environ,
        "PYTHONHASHSEED": str(salt),
        "XDG_CACHE_HOME": f"{folder}/cache",
        "OMP_NUM_THREADS": "1",
    }
    with subprocess.Popen(
        [sys.executable, "-m", "evomerge", *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(folder: Path, *words: str) -> None:
    """Run a command to its end in this process, which may have loaded much already.

    Raises:
        AssertionError: It did not end well.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("XDG_CACHE_HOME", f"{folder}/cache")
        with pytest.raises(SystemExit) as ended:
            main(words)
    assert ended.value.code == 0


class Watch:
    """One run of the study, looked at through its database, and struck.

    Args:
        store: Of the study; may be empty still.
        process: The coordinator.
    """

    def __init__(self, store: Store, process: subprocess.Popen[str]) -> None:
        self._store = store
        self._process = process
        self._n_events = len(self._workers())
        self._n_faults = len(self.faults())

    def faults(self) -> list[Attempt]:
        """Return the attempts that machines spoilt, over all runs."""
        studies = self._store.studies()
        attempts = self._store.attempts(studies[0].id) if studies else ()
        return [a for a in attempts if a.end is AttemptEnd.FAULT]

    def kill_worker(self) -> None:
        """Kill a worker at work, and wait until its attempt is put down to that."""
        n_before = len(self.faults())
        pid = self.until(self.at_work)
        assert b"ray::" in Path(f"/proc/{pid}/cmdline").read_bytes()
        os.kill(pid, signal.SIGKILL)
        self.until(lambda: len(self.faults()) > n_before)

    def kill_coordinator(self) -> None:
        """Kill the coordinator.

        Raises:
            AssertionError: It had ended before.
        """
        self._process.kill()
        out, _ = self._process.communicate()
        assert self._process.returncode == -signal.SIGKILL, out

    def until(self, question: Callable[[], Any]) -> Any:
        """Wait for an answer that is true, while the coordinator lives.

        Raises:
            AssertionError: The coordinator ended, or it took too long.
        """
        deadline = time.monotonic() + _PATIENCE_S
        while not (answer := question()):
            code = self._process.poll()
            assert code is None, f"ended with {code}: {self._process.communicate()[0]}"
            assert time.monotonic() < deadline
            time.sleep(0.02)
        return answer

    def at_work(self) -> int | None:
        """Return the process of a worker of this run that is at a trial.

        A trial that was spoilt twice is left alone: the third time would end it.
        """
        here = self._workers()[self._n_events :]
        if not here:
            return None
        pids = {facts["worker"]: int(facts["pid"]) for facts in here}
        for trial in self._store.history(self._store.studies()[0].id):
            if trial.state is TrialState.RUNNING and trial.faults < 2:
                return pids.get(trial.worker or "")
        return None

    def _workers(self) -> list[Mapping[str, Any]]:
        """What every worker so far said when it was ready, over all runs."""
        studies = self._store.studies()
        events = self._store.events(studies[0].id, "worker") if studies else ()
        return [event.data for event in events]


def decided(url: str) -> list[Any]:
    """Return trials and outcomes: what must not depend on what happened on the way."""
    rows = [
        (row.number, row.generation, row.state, row.recipe, row.point, row.scores)
        for row in api.trials(NAME, db=url)
    ]
    store = open_store(url)
    try:
        study = store.study(NAME)
        outcomes = [
            dict(store.outcomes(row[3], task.protocol.digest))
            for row in rows
            for task in store.tasks(study.id) or ()
        ]
        return [*rows, *outcomes, store.usage(study.id).items]
    finally:
        store.close()
