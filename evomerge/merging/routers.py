"""The rows of a mixture's routers: a direction for each expert, in every layer.

A token goes to the experts whose rows point most as its hidden state does. Prompts say
what is like an expert's tokens: by the hidden states they lead to, or cheaply by their
embeddings. Rows of unit length; drawn ones are as they are drawn.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

MOST_CONDITION = 5.0
"""Condition number of a layer's rows beyond which experts are hardly told apart."""


def drawn_rows(gate: str, shape: tuple[int, int, int], seed: int) -> torch.Tensor:
    """Draw rows, the same for a seed on every machine.

    Args:
        gate: ``random`` (normal) or ``uniform_random`` (as a fresh linear layer's).
        shape: Layers, experts, width of the hidden state.
        seed: Of the draw.

    Returns:
        Rows in float32, of that shape.
    """
    generator = torch.Generator().manual_seed(seed)
    if gate == "random":
        return torch.randn(shape, generator=generator)
    bound = math.sqrt(1.0 / shape[-1])
    return (torch.rand(shape, generator=generator) * 2.0 - 1.0) * bound


def rows_of_states(
    positive: Sequence[torch.Tensor], negative: Sequence[torch.Tensor | None]
) -> torch.Tensor:
    """Make rows of what the prompts of each expert lead to.

    Args:
        positive: For each expert, its states: layers by width.
        negative: The same of prompts that are not its own; None without.

    Returns:
        Rows in float32 (layers, experts, width), of unit length.
    """
    rows = []
    for mine, other in zip(positive, negative, strict=True):
        row = mine.float() if other is None else mine.float() - other.float()
        rows.append(row / row.norm(dim=-1, keepdim=True).clamp(min=1e-8))
    return torch.stack(rows, dim=1)


def cheap_states(
    embedding: torch.Tensor, tokens: Sequence[Sequence[int]], n_layers: int
) -> torch.Tensor:
    """Return the direction of all tokens' embeddings together, the same in every layer.

    Args:
        embedding: One row for each token.
        tokens: Those of each prompt.
        n_layers: Layers of the model.

    Returns:
        Unit vectors in float32, layers by width.
    """
    chosen = torch.tensor([token for prompt in tokens for token in prompt])
    total = embedding[chosen].float().sum(dim=0)
    return (total / total.norm().clamp(min=1e-8)).expand(n_layers, -1)


def hard_to_tell(rows: torch.Tensor) -> list[int]:
    """Return the layers whose rows are so alike that experts are hardly told apart."""
    if rows.shape[1] < 2:
        return []
    conditions = torch.linalg.cond(rows.double())
    return [i for i, c in enumerate(conditions.tolist()) if not c <= MOST_CONDITION]
