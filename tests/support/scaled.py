"""Stacks that scale the inputs of their layers, run as they are by transformers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch

_EPSILONS = ("variance_epsilon", "eps")


def layers_of(model: Any, n: int) -> torch.nn.ModuleList:
    """Return the layers of a transformers model that has ``n`` of them."""
    found: torch.nn.ModuleList = next(
        part
        for part in model.modules()
        if isinstance(part, torch.nn.ModuleList) and len(part) == n
    )
    return found


@contextmanager
def scaling(model: Any, scales: Sequence[float]) -> Iterator[None]:
    """Let every layer of a model multiply its input, while the block runs."""
    layers = layers_of(model, len(scales))
    hooks = [
        layer.register_forward_pre_hook(_multiply(scale), with_kwargs=True)
        for layer, scale in zip(layers, scales, strict=True)
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def _multiply(scale: float) -> Any:
    def hook(module: Any, given: tuple[Any, ...], named: dict[str, Any]) -> Any:
        if given:
            return (scale * given[0], *given[1:]), named
        return given, named | {"hidden_states": scale * named["hidden_states"]}

    return hook


def without_epsilon(model: Any) -> Any:
    """Make the epsilon of a model's norms too small to be seen; return the model."""
    for part in model.modules():
        for name in _EPSILONS:
            if hasattr(part, name):
                setattr(part, name, 1e-30)
    return model
