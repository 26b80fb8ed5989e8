"""Weighted averages and task arithmetic: sums of inputs or of their differences."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.errors import CandidateError
from evomerge.merging.operators.device.fused_device import FUSED, can_fuse_on_device
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.lazy_merge import LazyMerge
from evomerge.merging.operators.loops.onepass import Total, can_fuse, fused_sum
from evomerge.merging.operators.loops.thinning import Thin

_TINY = 1e-8
"""A sum of weights below this cannot be divided by."""


def linear(inputs: Inputs) -> Sum:
    """Average the inputs: ``sum(w_i x_i) / sum(w_i)``, or the plain sum.

    Raises:
        CandidateError: The weights sum to zero, so there is no average.
    """
    settings = inputs.settings
    if settings.flag("normalize"):
        return Sum(Deltas.of(inputs), shares(settings, inputs.key))
    return Sum(Deltas.of(inputs), settings.numbers("weight"))


def lora_linear(inputs: Inputs) -> Sum:
    """Average tensors that adapters replace: there are no factors to be averaged.

    Raises:
        CandidateError: The weights sum to zero, so there is no average.
    """
    return Sum(Deltas.of(inputs), shares(inputs.settings, inputs.key))


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


def task_arithmetic(inputs: Inputs) -> Sum:
    """Add scaled differences to the base: ``base + lambda * sum(w_i (x_i - base))``."""
    return Sum(Deltas.of(inputs), *delta_factors(inputs.settings))


def bcwi(inputs: Inputs) -> Sum:
    """Go from the mean of new models back to the old one, the base, by ``alpha``.

    Backward-compatible weight interpolation (Schumann et al. 2023, 2301.10546); with
    several new models it is their soup that goes back.
    """
    n = len(inputs.tensors)
    share = (1.0 - inputs.settings.number("alpha")) / n
    return Sum(Deltas.of(inputs), (share,) * n)


def delta_factors(settings: Settings) -> Total:
    """Return each input's weight, what their sum is divided by, and its factor."""
    weights = settings.numbers("weight")
    total = 1.0
    if settings.flag("normalize"):
        # Of the weights as they are used, in fp32.
        total = float(torch.tensor(weights, dtype=torch.float32).sum())
    # With nothing to divide by, the sum stays as it is: all weights zero must give the
    # base. mergekit guards the same way.
    divisor = 1.0 if abs(total) < _TINY else total
    return Total(weights, divisor, settings.number("lambda"))


def whole_factors(settings: Settings) -> tuple[float, ...]:
    """Return the whole factor of each input's difference."""
    weights, divisor, scale = delta_factors(settings)
    return tuple(scale / divisor * weight for weight in weights)


@dataclass(frozen=True, slots=True)
class Sum(LazyMerge):
    """A merge that is decided and not carried out yet.

    ``base + scale * sum(f_i thin(x_i - base)) / divisor``; without a base the sum over
    the inputs themselves.
    """

    deltas: Deltas
    factors: tuple[float, ...]
    divisor: float = 1.0
    scale: float = 1.0
    thin: Thin | None = None

    def into(self, out: torch.Tensor) -> bool:
        """See :meth:`LazyMerge.into`."""
        total = Total(self.factors, self.divisor, self.scale)
        if can_fuse(self.deltas, self.thin, out) and fused_sum(
            self.deltas, total, self.thin, out
        ):
            return True
        if can_fuse_on_device(self.deltas, self.thin, out) and FUSED.add(
            self.deltas, total, self.thin, out, self._step_by_step
        ):
            return True
        # Also what compiled code found not finite: torch keeps what is no number one.
        self.by_steps(out, self._step_by_step)
        return False

    def _step_by_step(self, into: torch.Tensor) -> None:
        deltas, space = self.deltas, self.deltas.scratch()
        divisor = None
        if self.divisor != 1.0:
            # On the device: for a plain number a GPU multiplies by one over it.
            divisor = torch.tensor(
                self.divisor, dtype=torch.float32, device=deltas.device
            )
        for block in deltas.blocks():
            base, part = deltas.base(block), into[block]
            for index, factor in enumerate(self.factors):
                delta = deltas.read(index, block, base, space if index else part)
                if self.thin is not None:
                    self.thin(index, block, delta)
                # Not in one step with the sum: that would round once less.
                delta.mul_(factor)
                if index:
                    part.add_(delta)
            if divisor is not None:
                part.div_(divisor)
            if self.scale != 1.0:
                part.mul_(self.scale)
            if base is not None:
                part.add_(base)
