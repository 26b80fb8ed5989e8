"""Losses of whole texts, for lm-eval's tasks of kind ``loglikelihood_rolling``.

lm-eval adds log-probabilities up over all texts and divides once. Here every text has a
loss of its own, so that texts can be compared, cut into blocks and resampled like any
other items.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.scoring.harness.internals import ConfigurableTask

LOSSES = ("nll_per_byte", "nll_per_word")
"""What is measured of a text, in nats; smaller is better."""


def reads_texts(task: ConfigurableTask) -> bool:
    """Tell whether a task asks how likely whole texts are, and leaves them to us."""
    is_rolling = task.OUTPUT_TYPE == "loglikelihood_rolling"
    return is_rolling and task.config.process_results is None


def losses(
    task: ConfigurableTask, doc: Mapping[str, Any], logprob: float
) -> dict[str, float]:
    """Return the negative log-likelihood of a text that is not empty, by its length."""
    text = task.doc_to_target(doc)
    lengths = (task.count_bytes(text), task.count_words(text))
    return {
        name: -logprob / length for name, length in zip(LOSSES, lengths, strict=True)
    }
