"""WUDI (Cheng et al. 2025): the difference that disturbs every input the least.

It minimises ``sum(a_i |(X - D_i) D_i^T|^2 / |D_i|^2)``: the rows of a difference stand
in for the layer's own inputs. With ``C_i = D_i^T D_i / |D_i|^2`` the minimum solves
``X sum(a_i C_i) = sum(a_i D_i C_i)``, which is RegMean with the differences as data.
The authors walk there by Adam and stop early; both ways are here.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from evomerge.core.operators.derived import INTERFERENCE
from evomerge.core.recipes.settings import Settings
from evomerge.errors import CandidateError
from evomerge.merging.operators.directions.singular_vectors import (
    Matrices,
    by_matrix,
    is_matrix,
)
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.sums.linear import weighted

_NO_SUM = 1e-8
"""Shares that sum to less than this cannot be divided by."""
_NO_RIDGE = 1e-9
"""A ridge below this does not keep the equations solvable; a pseudo-inverse does."""
_FLAT = 1e-12
"""Part of the largest curvature up to which one counts as zero: of the squares of
differences between fp32 numbers, the rest is rounding."""
_BETA1, _BETA2, _EPSILON = 0.9, 0.999, 1e-8


def wudi(inputs: Inputs) -> torch.Tensor:
    """Find the difference of least interference, matrix by matrix.

    Vectors get the mean difference.

    Raises:
        CandidateError: The weights sum to zero, or an input is not finite.
    """
    settings = inputs.settings
    shares = _shares(settings, inputs.key)
    if not is_matrix(inputs.tensors[0]):
        scale = settings.number("lambda")
        factors = tuple(scale * share for share in shares)
        return weighted(inputs, factors).fresh()
    mean = settings.choice("anchor") == "mean"

    def merge(matrices: Matrices) -> torch.Tensor:
        interference = Interference.of(matrices, shares, mean=mean)
        if settings.choice("solver") == "closed":
            return interference.closed(settings.number("ridge"))
        return interference.descend(
            int(settings.number("steps")), settings.number("lr")
        )

    return by_matrix(inputs, merge)


@dataclass(frozen=True, slots=True)
class Interference:
    """The normal equations ``X gram = right`` of one matrix, and where to start.

    Attributes:
        gram: Shape ``(columns, columns)``: ``sum(a_i C_i)``.
        right: Shape ``(rows, columns)``: ``sum(a_i D_i C_i)``.
        anchor: Shape ``(rows, columns)``: where the equations say nothing.
        size: Root mean square of the entries of those that differ at all.
    """

    gram: torch.Tensor
    right: torch.Tensor
    anchor: torch.Tensor
    size: float

    @classmethod
    def of(
        cls, matrices: Matrices, shares: Sequence[float], *, mean: bool
    ) -> Interference:
        """Set the equations up; shares sum to one, and ``a_i`` is N times a share."""
        n = len(shares)
        first = matrices.deltas[0]
        gram = first.new_zeros(first.shape[1], first.shape[1])
        right = torch.zeros_like(first)
        for index, share in enumerate(shares):
            own, pulled = _own_terms(matrices, index)
            gram.add_(own, alpha=n * share)
            right.add_(pulled, alpha=n * share)
        anchor = matrices.total([share if mean else n * share for share in shares])
        squares = [float(delta.square().mean()) for delta in matrices.deltas]
        changed = sum(square > 0.0 for square in squares) or 1
        size = math.sqrt(sum(squares) / changed)
        return cls(gram, right, anchor, size)

    def slope(self, at: torch.Tensor) -> torch.Tensor:
        """Return half the gradient of the interference at a difference."""
        return at @ self.gram - self.right

    def closed(self, ridge: float) -> torch.Tensor:
        """Solve the equations, drawn to the anchor.

        Args:
            ridge: How strongly, as a part of the mean curvature. Next to none leaves
                the anchor only where the equations say nothing.
        """
        step = -self.slope(self.anchor)
        pull = ridge * float(self.gram.trace()) / len(self.gram)
        if pull > 0.0 and ridge >= _NO_RIDGE:
            gram = self.gram.clone()
            gram.diagonal().add_(pull)
            root, failed = torch.linalg.cholesky_ex(gram)
            if not bool(failed):
                return self.anchor + torch.cholesky_solve(step.T, root).T
        values, vectors = torch.linalg.eigh(self.gram)
        live = values > _FLAT * float(values[-1])
        inverse = torch.where(live, 1.0 / (values + pull), 0.0)
        return self.anchor + (step @ vectors * inverse) @ vectors.T

    def descend(self, steps: int, rate: float) -> torch.Tensor:
        """Walk from the anchor by Adam; a step moves an entry by about the rate.

        Args:
            steps: How many.
            rate: In units of the differences' root mean square, so that the result
                does not depend on their scale.
        """
        if self.size == 0.0:
            return self.anchor.clone()
        at, right = self.anchor / self.size, self.right / self.size
        first, second = torch.zeros_like(at), torch.zeros_like(at)
        for step in range(1, steps + 1):
            slope = (at @ self.gram).sub_(right).mul_(2.0)
            first.lerp_(slope, 1.0 - _BETA1)
            second.mul_(_BETA2).addcmul_(slope, slope, value=1.0 - _BETA2)
            spread = (second / (1.0 - _BETA2**step)).sqrt_().add_(_EPSILON)
            at.addcdiv_(first, spread, value=-rate / (1.0 - _BETA1**step))
        return at.mul_(self.size)


def _own_terms(matrices: Matrices, index: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return ``C_i`` and ``D_i C_i``, once for all candidates; zero for no change."""

    def compute() -> tuple[torch.Tensor, torch.Tensor]:
        delta = matrices.deltas[index]
        square = float(delta.square().sum())
        gram = delta.T @ delta / (square or 1.0)
        return gram, delta @ gram

    return matrices.recall(INTERFERENCE, (index,), compute)


def _shares(settings: Settings, key: str) -> list[float]:
    weights = settings.numbers("weight")
    total = sum(weights)
    if total < _NO_SUM:
        raise CandidateError(
            f"{key}: the weights {list(weights)} of wudi sum to zero, so no input "
            "counts. Change one."
        )
    return [weight / total for weight in weights]
