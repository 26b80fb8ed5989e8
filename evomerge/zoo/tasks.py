"""The zoo's tasks: as lm-eval task files, one YAML and one JSONL each, and scored here.

A YAML names its JSONL relative to its own folder. All items are held out from every
model's training; who reads them splits them once more into search and report items.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from evomerge.zoo.folder import read_weights
from evomerge.zoo.model import logits
from evomerge.zoo.skills import Question, held_out
from evomerge.zoo.tokenizer import IGNORED, Examples

_LIMIT = 800
_BATCH = 512


@dataclass(frozen=True, slots=True)
class Task:
    """One task.

    Attributes:
        skill: Whose held-out questions it asks.
        says: What it measures, in one line.
        choices: Three answers to choose from instead of writing one.
    """

    skill: str
    says: str
    choices: bool = False


TASKS = {
    "en_hard": Task("en_hard", "English: add two numbers, with a carry."),
    "en_sort5": Task("en_sort5", "English: sort five digits."),
    "jd_sort4": Task(
        "jd_sort4", "Japanese: sort four digits; the answer ends in です."
    ),
    "jd_sort5": Task(
        "jd_sort5",
        "Japanese: sort five digits. No model of the zoo is ever trained on it.",
    ),
    "en_sort3_mc": Task(
        "en_sort3", "English: which of three is 3 digits sorted? Easy.", choices=True
    ),
}
"""The four tasks of a study, and an easy multiple-choice task."""

_HEAD = """\
# {says}
# Every question is held out from the training of every zoo model.
task: {name}
dataset_path: json
dataset_kwargs:
  data_files:
    test: {name}.jsonl  # beside this file
test_split: test
num_fewshot: 0
doc_to_text: "{{{{question}}}}\\n"
target_delimiter: ""
"""

_WRITTEN = """\
output_type: generate_until
doc_to_target: "{{answer}}"
generation_kwargs:
  until: ["\\n"]
  max_gen_toks: 8  # the longest answer has 7 tokens, its end included
  do_sample: false
  temperature: 0.0
metric_list:
  - {metric: exact_match, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""

_CHOSEN = """\
output_type: multiple_choice
doc_to_choice: choices
doc_to_target: label
metric_list:
  - {metric: acc, aggregation: mean, higher_is_better: true}
metadata: {version: 1.0}
"""


def questions(name: str) -> list[Question]:
    """Give the questions of a task, in the order of its JSONL."""
    return held_out(TASKS[name].skill, _LIMIT)


def task_files(name: str) -> dict[str, str]:
    """Give a task's files: name to text."""
    task = TASKS[name]
    body = _CHOSEN if task.choices else _WRITTEN
    rows = _with_choices(name) if task.choices else _written(name)
    lines = [json.dumps(row, ensure_ascii=False) + "\n" for row in rows]
    return {
        f"{name}.yaml": _HEAD.format(name=name, says=task.says) + body,
        f"{name}.jsonl": "".join(lines),
    }


def write_tasks(folder: Path) -> None:
    """Write the files of all tasks into a folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    for name in TASKS:
        for file, text in task_files(name).items():
            (folder / file).write_text(text, encoding="utf-8")


def _written(name: str) -> list[dict[str, object]]:
    return [{"question": q.text, "answer": q.answer} for q in questions(name)]


def _with_choices(name: str) -> list[dict[str, object]]:
    """Put the right answer among two with one digit changed."""
    rng = np.random.default_rng(0)
    rows: list[dict[str, object]] = []
    for question in questions(name):
        choices = [question.answer]
        while len(choices) < 3:
            digits = list(question.answer)
            digits[rng.integers(len(digits))] = str(rng.integers(10))
            wrong = "".join(digits)
            if wrong not in choices:
                choices.append(wrong)
        order = rng.permutation(3).tolist()
        rows.append(
            {
                "question": question.text,
                "choices": [choices[place] for place in order],
                "label": order.index(0),
            }
        )
    return rows


def score(model: Path | Mapping[str, Tensor], task: str, n: int | None = None) -> float:
    """Score a zoo model, or a merge of some, on a task of the zoo.

    There is one forward pass per batch and no generation. An answer is right if the
    most probable token is the right one at every position of the answer and at
    ``</s>``: exactly then greedy decoding would have written it.

    Args:
        model: A zoo model's folder, or weights under the same names.
        task: A task of the zoo whose answers are written.
        n: Ask only the first ``n`` questions.

    Returns:
        The share of questions answered exactly, from 0 to 1.
    """
    state = read_weights(model) if isinstance(model, Path) else model
    hits = answers_exactly(state, questions(task)[:n])
    return sum(hits) / len(hits)


@torch.no_grad()
def answers_exactly(
    state: Mapping[str, Tensor], asked: list[Question]
) -> tuple[bool, ...]:
    """Say for each question whether greedy decoding gives its answer and then ends."""
    examples = Examples.of(asked)
    hits: list[bool] = []
    for rows in torch.arange(len(examples)).split(_BATCH):
        tokens, targets = examples.batch(rows)
        wanted = targets != IGNORED
        right = torch.ones_like(wanted)
        right[wanted] = logits(state, tokens, wanted).argmax(-1) == targets[wanted]
        hits.extend(right.all(dim=1).tolist())
    return tuple(hits)
