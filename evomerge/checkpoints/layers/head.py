"""Whether a model's output head is its embedding, and where a folder contradicts."""

from __future__ import annotations

import mmap
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.checkpoints.configs.nested import decoder_config, decoder_path
from evomerge.checkpoints.header import TensorInfo
from evomerge.checkpoints.layers.layout import Layout
from evomerge.errors import CheckpointError

_UNTIED = frozenset({"BigBirdPegasusForCausalLM", "PI0ForConditionalGeneration"})
"""Classes whose configuration may say that the head is the embedding, and that have a
head of its own all the same."""


def is_tied(
    folder: Path,
    config: Mapping[str, Any],
    tensors: Mapping[str, TensorInfo],
    layout: Layout,
) -> bool:
    """Tell whether the head is the embedding, and refuse contradictions.

    Without the key, transformers' own defaults decide: Gemma ties, the others do not.
    Older savers dropped the stored head of a tied model without saying so.
    """
    if layout.is_headless:
        return True
    stored = layout.head in tensors
    family = str(config.get("model_type", ""))
    usual = not stored or family.startswith("gemma")
    if decoder_path(config) and stored:
        usual = equal_bytes(tensors[layout.embed], tensors[layout.head])
    flag = decoder_config(config).get("tie_word_embeddings", usual)
    if not isinstance(flag, bool):
        raise CheckpointError(
            f"{folder}/config.json: tie_word_embeddings should be true or false, "
            f"got {flag!r}."
        )
    if not flag and not stored:
        raise CheckpointError(
            f"{folder}: tie_word_embeddings is false, but no {layout.head} is stored; "
            "the model would speak with a random head. Save it again."
        )
    if flag and stored:
        embed, head = tensors[layout.embed], tensors[layout.head]
        # Whatever is said: CPM-Ant's embedding has further rows, and few classes of
        # transformers tie nothing.
        names = config.get("architectures") or ()
        if embed.shape != head.shape or not _UNTIED.isdisjoint(names):
            return False
        if not equal_bytes(embed, head):
            raise CheckpointError(
                f"{folder}: tie_word_embeddings is true, but the stored {layout.head} "
                "differs from the embedding. Set tie_word_embeddings to false if the "
                "head is meant, or remove the head."
            )
    return bool(flag)


def equal_bytes(one: TensorInfo, other: TensorInfo) -> bool:
    """Tell whether two stored tensors are the same bits."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with one.file.open("rb") as a, other.file.open("rb") as b:
        left = memoryview(mmap.mmap(a.fileno(), 0, access=mmap.ACCESS_READ))
        right = memoryview(mmap.mmap(b.fileno(), 0, access=mmap.ACCESS_READ))
        return bool(
            left[one.offset : one.offset + one.nbytes]
            == right[other.offset : other.offset + other.nbytes]
        )
