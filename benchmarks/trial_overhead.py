"""How much of a trial is not scoring: trials per minute on a tiny model, and the split.

A tiny random Llama (about 45 k parameters, 4 layers), 40 three-choice items, one worker
in this process, the whole path: ask, materialise, swap, lm-eval, SQLite.

    python benchmarks/trial_overhead.py [hf] [vllm] [--trials N]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path

# As in a worker: Ray gives each one core. Two threads on small tensors mostly wait.
os.environ.setdefault("OMP_NUM_THREADS", "1")

N_ITEMS = 40
TASK = """\
task: three_choices
dataset_path: json
dataset_kwargs: {data_files: {test: items.jsonl}}
output_type: multiple_choice
test_split: test
num_fewshot: 0
doc_to_text: "Q: {{question}}\\nA:"
doc_to_choice: "{{choices}}"
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
metadata: {version: 1.0}
"""
STUDY = """\
name: overhead
sources: {base: base, a: a, b: b}
dtype: float32
space:
  operator: task_arithmetic
  base: base
  experts: [a, b]
  knobs: {weight: {low: 0.0, high: 1.0, by: {groups: 1, ends: own}}}
tasks:
  three: {task: three_choices, include: tasks, metric: acc}
items: {blocks: 1}
baselines: {parents: false, uniform: false}
strategy: {kind: random, generation_size: 10}
engine: {kind: KIND}
budget: {trials: TRIALS}
"""


def prepare(folder: Path) -> None:
    """Write three tiny models and the task."""
    from evomerge.testing.models import tiny_model

    for seed, name in enumerate(("base", "a", "b")):
        tiny_model(folder / name, "llama", tied=False, seed=seed)
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "three_choices.yaml").write_text(TASK)
    rows = [
        {
            "question": f"{k} plus {k % 7}",
            "choices": [str(k + k % 7), str(k + 9), str(k + 11)],
            "answer": 0,
        }
        for k in range(2 * N_ITEMS)
    ]
    lines = "".join(json.dumps(row) + "\n" for row in rows)
    (tasks / "items.jsonl").write_text(lines)


def measure(kind: str, n_trials: int, folder: Path) -> None:
    """Run a study and print its pace and where the time went."""
    from evomerge import api
    from evomerge.api import Where

    file = folder / f"{kind}.yaml"
    file.write_text(STUDY.replace("KIND", kind).replace("TRIALS", str(n_trials)))
    db = f"sqlite:///{folder}/{kind}.db"
    where = Where(1, None, True, folder / "cache")
    prepared = api.prepare(file, db=db, where=where)
    ends: list[float] = []

    def watch(progress: object) -> None:
        if (done := getattr(progress, "done", 0)) > len(ends):
            ends.extend([time.perf_counter()] * (done - len(ends)))

    api.search(prepared, watch)
    rows = [row for row in api.trials("overhead", db=db) if row.seconds]
    # The first trials pay for warming up: compiled kernels, memoised texts.
    warm = n_trials // 5
    wall = (ends[-1] - ends[warm - 1]) / (n_trials - warm)
    parts = {
        part: statistics.mean((row.seconds or {})[part] for row in rows[warm:])
        for part in ("materialise", "swap", "score")
    }
    parts["ask and record"] = wall - sum(parts.values())
    print(f"{kind}: {60 / wall:.0f} trials/min, {1000 * wall:.1f} ms each")
    for part, seconds in parts.items():
        print(f"  {part:<15}{1000 * seconds:8.1f} ms {100 * seconds / wall:5.1f} %")


def main() -> None:
    """Measure the engines named."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="*", default=["hf", "vllm"])
    parser.add_argument("--trials", type=int, default=100)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        prepare(Path(name))
        for kind in arguments.kinds:
            measure(kind, arguments.trials, Path(name))


if __name__ == "__main__":
    main()
