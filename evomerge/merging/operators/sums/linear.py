"""Weighted averages and task arithmetic: sums of inputs or of their differences."""

from __future__ import annotations

from collections.abc import Sequence

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.errors import CandidateError
from evomerge.merging.form import Form, Step, Total
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas

_TINY = 1e-8
"""A sum of weights below this cannot be divided by."""


def linear(inputs: Inputs) -> LazyMerge:
    """Average the inputs: ``sum(w_i x_i) / sum(w_i)``, or the plain sum.

    Raises:
        CandidateError: The weights sum to zero, so there is no average.
    """
    settings = inputs.settings
    if settings.flag("normalize"):
        return weighted(inputs, shares(settings, inputs.key))
    return weighted(inputs, settings.numbers("weight"))


def lora_linear(inputs: Inputs) -> LazyMerge:
    """Average tensors that adapters replace: there are no factors to be averaged.

    Raises:
        CandidateError: The weights sum to zero, so there is no average.
    """
    return weighted(inputs, shares(inputs.settings, inputs.key))


def weighted(inputs: Inputs, weights: Sequence[float]) -> LazyMerge:
    """Return the sum of the inputs, or of their differences, times weights."""
    return LazyMerge(Deltas.of(inputs), Form(Total(tuple(weights))), inputs.key)


def shares(settings: Settings, key: str) -> tuple[float, ...]:
    """Return each input's part in an average: its weight over their sum.

    Raises:
        CandidateError: The weights sum to zero, so there is no average.
    """
    weights = settings.numbers("weight")
    total = sum(weights)
    if abs(total) < _TINY:
        raise CandidateError(
            f"{key}: the weights {list(weights)} of a weighted average sum to zero, so "
            "there is none. Change one, or set normalize off where there is that knob."
        )
    return tuple(weight / total for weight in weights)


def task_arithmetic(inputs: Inputs) -> LazyMerge:
    """Add scaled differences to the base: ``base + lambda * sum(w_i (x_i - base))``."""
    return LazyMerge(Deltas.of(inputs), summed(inputs.settings), inputs.key)


def bcwi(inputs: Inputs) -> LazyMerge:
    """Go from the mean of new models back to the old one, the base, by ``alpha``.

    Backward-compatible weight interpolation (Schumann et al. 2023, 2301.10546); with
    several new models it is their soup that goes back.
    """
    n = len(inputs.tensors)
    share = (1.0 - inputs.settings.number("alpha")) / n
    return weighted(inputs, (share,) * n)


def summed(settings: Settings, thin: Sequence[Step] | None = None) -> Form:
    """Return the form of a weighted sum of differences, by the knobs of such methods.

    Args:
        settings: Read for ``weight``, ``normalize`` and ``lambda``.
        thin: What thins each input.
    """
    weights = settings.numbers("weight")
    total = 1.0
    if settings.flag("normalize"):
        # Of the weights as they are used, in fp32.
        total = float(torch.tensor(weights, dtype=torch.float32).sum())
    # With nothing to divide by, the sum stays as it is: all weights zero must give the
    # base. mergekit guards the same way.
    divisor = 1.0 if abs(total) < _TINY else total
    thin = None if thin is None else tuple(thin)
    return Form(Total(weights, divisor), thin, scale=settings.number("lambda"))


def whole_factors(settings: Settings) -> tuple[float, ...]:
    """Return the whole factor of each input's difference."""
    form = summed(settings)
    assert isinstance(form.reduce, Total)
    weights, divisor = form.reduce
    return tuple(form.scale / divisor * weight for weight in weights)
