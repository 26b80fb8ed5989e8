"""Exact match without generation: one forward pass per batch.

An answer is right if the most probable token is the right one at every position of
the answer and at ``</s>``: exactly then greedy decoding would have written it.
"""

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from evomerge.zoo.examples import IGNORED, Examples
from evomerge.zoo.folder import read_weights
from evomerge.zoo.model import logits
from evomerge.zoo.skills import Question
from evomerge.zoo.tasks import questions

_BATCH = 512


def score(model: Path | Mapping[str, Tensor], task: str, n: int | None = None) -> float:
    """Score a zoo model, or a merge of some, on a task of the zoo.

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
