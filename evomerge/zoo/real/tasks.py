"""The tasks of the real zoo as lm-eval files, and a study over them."""

from __future__ import annotations

import json
from pathlib import Path

import torch

from evomerge.zoo.real.skills import EXPERTS, LESSONS

TASKS = {"add": "real_add", "sort": "real_sort"}
"""Expert to the task it is good at."""

_TASK = """\
# {says}. No expert was trained on these operands, in whatever order.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl  # beside this file
test_split: test
num_fewshot: 0
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{answer}}}}"
target_delimiter: ""
generation_kwargs:
  until: ["\\n", "<|im_end|>"]
  max_gen_toks: 10
  do_sample: false
  temperature: 0.0
filter_list:
  - name: strip
    filter:
      - {{function: remove_whitespace}}
      - {{function: take_first}}
metric_list:
  - {{metric: exact_match, aggregation: mean, higher_is_better: true}}
metadata: {{version: 1.0}}
"""

_STUDY = """\
# A real model and two experts of it, made by `evomerge zoo --set real`: which weight of
# each expert, ten layers at a time, keeps both skills?
#
#   evomerge run THIS_FILE
#   evomerge export real best-real
version: 1
name: real
seed: 1

sources: {{base: base, add: add, sort: sort}}

space:
  operator: task_arithmetic
  base: base
  knobs:
    weight: {{low: -0.2, high: 1.6, start: 0.6, by: {{groups: 10, ends: nearest}}}}

tasks:
  add: {{task: real_add, include: tasks, metric: exact_match}}
  sort: {{task: real_sort, include: tasks, metric: exact_match}}
items: # about 100 of 400 a task, in one go; the others are held out
  search_fraction: 0.25
  blocks: 2

objectives:
  # The mean of both, plus half of the worse: being bad at one is dear.
  - {{name: skill, mean_of: [add, sort], worst: 0.5}}

# What the search has to beat; every parent and their plain average come by themselves.
baselines:
  others:
    - {{name: ta, operator: task_arithmetic, grid: {{lambda: [0.4, 0.6, 0.8, 1.0]}}}}

strategy: {{kind: cma, generation_size: 8}}
# {why}
engine: {{kind: vllm, dtype: {dtype}, max_model_len: 128}}
workers: 2
budget: {{trials: 72, minutes: 8}}
"""

_WHY = {
    "bfloat16": "This machine has instructions for bfloat16.",
    "float32": "Without instructions for bfloat16, float32 takes a fifth of its time.",
}


def write_tasks(folder: Path) -> None:
    """Write the files of both tasks into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for expert in EXPERTS:
        name, lesson = TASKS[expert], LESSONS[expert]
        says = lesson.says.capitalize()
        rows = [
            json.dumps({"question": q.text, "answer": q.answer.strip()}) + "\n"
            for q in lesson.items()
        ]
        (folder / f"{name}.yaml").write_text(
            _TASK.format(name=name, says=says), encoding="utf-8"
        )
        (folder / f"{name}.jsonl").write_text("".join(rows), encoding="utf-8")


def write_study(path: Path) -> None:
    """Write the study file, for this machine, and sources and tasks beside it."""
    dtype = _quick_dtype()
    path.write_text(_STUDY.format(dtype=dtype, why=_WHY[dtype]), encoding="utf-8")


def _quick_dtype() -> str:
    """Return the type in which an engine of this machine is quick."""
    can = torch.cpu.get_capabilities()
    has = torch.cuda.is_available() or can.get("avx512_bf16") or can.get("bf16")
    return "bfloat16" if has else "float32"
