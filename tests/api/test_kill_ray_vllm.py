"""The real thing killed: Ray, vLLM, lm-eval, SQLite, and a SIGKILL in a generation."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from evomerge import api
from evomerge.store.sql import open_store
from evomerge.testing.models import tiny_model

TASK = """\
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
STUDY = """\
name: real
seed: 5
sources: {base: base, a: a, b: b}
dtype: float32
space:
  operator: task_arithmetic
  base: base
  experts: [a, b]
  knobs: {weight: {low: 0.0, high: 1.0}}
tasks:
  sums: {task: sums, include: tasks, metric: acc}
items: {blocks: 4}
strategy: {kind: cma, generation_size: 4}
engine: {kind: vllm, max_model_len: 64, max_num_seqs: 16}
workers: 1
budget: {trials: 8}
"""


def prepare(folder: Path) -> None:
    for seed, name in enumerate(("base", "a", "b")):
        tiny_model(folder / name, tied=False, seed=seed)
    (folder / "tasks").mkdir()
    (folder / "tasks" / "sums.yaml").write_text(TASK)
    rows = [
        {"q": f"{k}+{k}", "choices": [str(2 * k), str(3 * k + 1)], "answer": k % 2}
        for k in range(40)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (folder / "tasks" / "sums.jsonl").write_text(lines)
    (folder / "real.yaml").write_text(STUDY)


def command(folder: Path, *words: str, salt: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *words],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONHASHSEED": str(salt),
            "XDG_CACHE_HOME": f"{folder}/cache",
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> None:
    out, _ = process.communicate(timeout=280)
    assert process.returncode == 0, out


def n_items(db: str) -> int:
    store = open_store(db)
    try:
        studies = store.studies()
        return store.usage(studies[0].id).items if studies else 0
    finally:
        store.close()


def contents(db: str) -> list[Any]:
    return [
        (row.number, row.generation, row.state, row.recipe, row.point, row.scores)
        for row in api.trials("real", db=db)
    ]


@pytest.mark.engine
@pytest.mark.ray
@pytest.mark.timeout(900)
def test_a_real_study_killed_in_a_generation_equals_the_undisturbed_one(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    calm, killed = (f"sqlite:///{tmp_path}/{name}.db" for name in ("calm", "killed"))
    # Undisturbed, and in one process: the pool must not matter either.
    words = ("run", "real.yaml", "--in-process", "--db", calm)
    finish(command(tmp_path, *words, salt=1))
    doomed = command(tmp_path, "run", "real.yaml", "--db", killed, salt=2)
    end = time.monotonic() + 280
    while doomed.poll() is None and time.monotonic() < end:
        if n_items(killed) >= 30:  # in the middle of the second trial
            break
        time.sleep(0.02)
    doomed.send_signal(signal.SIGKILL)
    out, _ = doomed.communicate()
    assert doomed.returncode == -signal.SIGKILL, out
    before = n_items(killed)
    assert 30 <= before < n_items(calm)
    finish(command(tmp_path, "resume", "real", "--db", killed, salt=3))
    assert contents(killed) == contents(calm)
    assert n_items(killed) == n_items(calm)
