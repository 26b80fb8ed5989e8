"""What enters each layer of a model after a prompt: for the routers of mixtures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from evomerge.core.work import EngineSettings, WorkerSetup
from evomerge.scoring.hf.model import load_model, load_tokenizer

Tokens = list[int]


def tokens_of(folder: str, groups: Sequence[Sequence[str]]) -> list[list[Tokens]]:
    """Cut prompts into tokens, after the token that begins a text, if there is one.

    Args:
        folder: Whose tokenizer.
        groups: Prompts, group by group.

    Raises:
        CheckpointError: There is no tokenizer, or it is broken.
    """
    tokenizer = load_tokenizer(folder)
    begin = tokenizer.bos_token or ""
    return [
        [
            list(tokenizer(begin + p, add_special_tokens=False).input_ids)
            for p in prompts
        ]
        for prompts in groups
    ]


class LayerInputs:
    """A model that tells what enters its layers."""

    def __init__(self, folder: str, dtype: str, device: str) -> None:
        """Load the model, in the element type it is to compute in.

        Raises:
            CheckpointError: transformers cannot load it.
            WorkerError: The machine failed.
        """
        settings = EngineSettings("hf", dtype=dtype, options={"device": device})
        setup = WorkerSetup(settings, (), {"base": folder}, "base", None, "")
        self._model: Any = load_model(setup)
        self._device = device

    @torch.no_grad()
    def mean(self, prompts: Sequence[Tokens], *, average: bool) -> torch.Tensor:
        """Return the mean over prompts of what enters each layer.

        Args:
            prompts: Tokens of each.
            average: Over all tokens of a prompt; otherwise after its last.

        Returns:
            Layers by width, in float32.
        """
        total = None
        for tokens in prompts:
            ids = torch.tensor([tokens], device=self._device)
            out = self._model(input_ids=ids, output_hidden_states=True, use_cache=False)
            states = torch.stack([s[0].float().cpu() for s in out.hidden_states[:-1]])
            one = states.mean(dim=1) if average else states[:, -1]
            total = one if total is None else total + one
        assert total is not None
        return total / len(prompts)
