"""Full fine-tuning of a transformers folder on one lesson."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor

from evomerge.merging.gguf import quiet_transformers, save
from evomerge.zoo.real.skills import EXPERTS, Lesson
from evomerge.zoo.skills import Question
from evomerge.zoo.tokenizer import IGNORED

BATCH = 24
PEAK_RATE = 5e-5
_WARM_UP = 8
_FALL = 0.9  # of the peak, by the last update
_GRADIENT_NORM = 1.0


def fine_tune(
    base: Path, expert: str, lesson: Lesson, out: Path, on_step: Callable[[int], None]
) -> None:
    """Train a model on a lesson's questions and write it as bfloat16.

    Args:
        base: Folder of the model to begin from.
        expert: Its name; decides which questions are drawn.
        lesson: What is taught, and for how long.
        out: Folder that is there, for weights, configuration and tokenizer.
        on_step: Told the number of finished updates after each.
    """
    from transformers import AutoModelForCausalLM, AutoTokenizer

    with quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(base, local_files_only=True)
        model = AutoModelForCausalLM.from_pretrained(
            base, local_files_only=True, dtype=torch.float32
        )
    rng = np.random.default_rng([1, EXPERTS.index(expert)])
    optimiser = torch.optim.AdamW(model.parameters(), lr=PEAK_RATE, weight_decay=0.0)
    model.train()
    for step in range(lesson.steps):
        tokens, targets = batch(tokenizer, lesson.sample(rng, BATCH, kept=False))
        _loss(model, tokens, targets).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), _GRADIENT_NORM)
        for group in optimiser.param_groups:
            group["lr"] = PEAK_RATE * schedule(step, lesson.steps)
        optimiser.step()
        optimiser.zero_grad()
        on_step(step + 1)
    model.eval().to(torch.bfloat16)
    save(model, tokenizer, out)


def _loss(model: Any, tokens: Tensor, targets: Tensor) -> Tensor:
    """Return the mean loss of the targets; the head, much of it all, sees no others."""
    hidden = model.base_model(input_ids=tokens).last_hidden_state[:, :-1]
    following = targets[:, 1:]
    wanted = following != IGNORED
    logits = model.get_output_embeddings()(hidden[wanted])
    return F.cross_entropy(logits.float(), following[wanted])


def schedule(step: int, steps: int) -> float:
    """Return the share of the peak learning rate: a short rise, a linear fall."""
    return min(1.0, (step + 1) / _WARM_UP) * (1.0 - _FALL * step / steps)


def batch(tokenizer: Any, questions: Sequence[Question]) -> tuple[Tensor, Tensor]:
    """Return token ids and targets, each of shape ``(n_questions, longest)``, int64.

    Only the answer and the end behind it are targets. Padding stands behind, where
    nothing that counts attends to it.
    """
    end = int(tokenizer.eos_token_id)
    pairs = [
        (tokenizer(q.text)["input_ids"], [*tokenizer(q.answer)["input_ids"], end])
        for q in questions
    ]
    longest = max(len(asked) + len(answer) for asked, answer in pairs)
    tokens = torch.full((len(pairs), longest), end)
    targets = torch.full((len(pairs), longest), IGNORED)
    for row, (asked, answer) in enumerate(pairs):
        begin, stop = len(asked), len(asked) + len(answer)
        tokens[row, :stop] = torch.tensor([*asked, *answer])
        targets[row, begin:stop] = torch.tensor(answer)
    return tokens, targets
