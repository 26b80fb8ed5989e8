"""Weighted means on the sphere: Multi-SLERP and the Karcher mean.

Both take the directions of the inputs, or of their differences from a base, find a mean
direction, and give it the mean length. The mean direction is a sum of the inputs, so it
is sought among their coordinates in the space they span (``Directions``). A tensor of
one element has no direction but a sign; its inputs are averaged in a straight line.
"""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.errors import CandidateError
from evomerge.merging.operators.directions.spherical import Angles, measure
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.linear import weighted

_log = logging.getLogger(__name__)

_NO_SUM = 1e-8
"""Weights, or weighted directions, that sum to less than this cancel each other."""
_OPPOSITE = 1e-6
"""Two directions this close to a straight angle have no one shortest way between."""


def multislerp(inputs: Inputs) -> LazyMerge:
    """Turn to the weighted mean of the directions; the length is the mean length.

    ``m = sum(w_i u_i)``, result ``m / |m| * sum(w_i |x_i|)``. With ``log_map`` one step
    of the Karcher mean is taken from there.

    Raises:
        CandidateError: The weights, or more than two weighted directions, cancel; or an
            input is not finite.
    """
    settings = inputs.settings
    key, vectors = inputs.key, Deltas.of(inputs)
    weights = _weights(settings, key)
    angles = measure(vectors, inputs)
    if vectors.n < 2 or not bool(angles.lengths.any()):
        return weighted(inputs, tuple(weights.tolist()))
    length = float(weights @ angles.lengths)
    mean = angles.norm(weights)
    if mean < _NO_SUM:
        if len(vectors) == 2:
            return weighted(inputs, tuple(weights.tolist()))
        raise CandidateError(
            f"{key}: the directions of {list(settings.operation.inputs)} cancel under "
            f"the weights {weights.tolist()}, so multislerp has no mean direction. "
            "Change a weight."
        )
    direction = weights / mean
    if settings.flag("log_map"):
        directions = Directions.of(angles, weights, key)
        direction = directions.mean(_Patience(1, 0.0)).factors
    return weighted(inputs, _factors(direction, angles, length))


def karcher(inputs: Inputs) -> LazyMerge:
    """Turn to the direction with the least mean squared angle; the mean length.

    Inputs shorter than the tolerance are left out. Where ``max_iter`` steps do not
    bring the last step below ``tol``, the last direction is taken and a warning names
    the tensor.

    Raises:
        CandidateError: The weights sum to zero, two inputs are antipodal, or an input
            is not finite.
    """
    settings = inputs.settings
    key, vectors = inputs.key, Deltas.of(inputs)
    patience = _Patience(int(settings.number("max_iter")), settings.number("tol"))
    weights = _weights(settings, key)
    angles = measure(vectors, inputs)
    long = angles.lengths > patience.tol
    if vectors.n < 2 or not bool(long.any()):
        return weighted(inputs, tuple(weights.tolist()))
    weights = torch.where(long, weights, 0.0)
    weights = weights / _divisor(float(weights.sum()), weights, key)
    _refuse_antipodal(angles, weights, inputs)
    found = Directions.of(angles, weights, key).mean(patience)
    if found.last_step >= patience.tol:
        _log.warning(
            "%s: the Karcher mean did not settle within %d iterations (the last step "
            "was %.1e, wanted below %.1e); the last direction is taken.",
            key,
            patience.max_iter,
            found.last_step,
            patience.tol,
        )
    length = float(weights @ angles.lengths)
    return weighted(inputs, _factors(found.factors, angles, length))


@dataclass(frozen=True, slots=True)
class _Patience:
    max_iter: int
    tol: float


@dataclass(frozen=True, slots=True)
class _Found:
    """A mean direction.

    Attributes:
        factors: Shape ``(n,)``: of each unit vector in the direction.
        last_step: Length of the last step, in radians.
    """

    factors: torch.Tensor
    last_step: float


@dataclass(frozen=True, slots=True)
class Directions:
    """Unit vectors by their coordinates in the space they span.

    Attributes:
        units: Shape ``(n, n)``, fp64: a row of coordinates each; zero without a
            direction.
        weights: Shape ``(n,)``, fp64, zero where there is no direction.
        key: The tensor, for messages.
    """

    units: torch.Tensor
    weights: torch.Tensor
    key: str

    @classmethod
    def of(cls, angles: Angles, weights: torch.Tensor, key: str) -> Directions:
        """Find coordinates with the given cosines: a root of their matrix."""
        values, vectors = torch.linalg.eigh(angles.cosines)
        units = vectors * values.clamp_min(0.0).sqrt()
        units = units / units.norm(dim=1, keepdim=True).clamp_min(_NO_SUM)
        live = angles.lengths > 0.0
        return cls(
            torch.where(live[:, None], units, 0.0),
            torch.where(live, weights, 0.0),
            key,
        )

    def mean(self, patience: _Patience) -> _Found:
        """Walk along the mean of the shortest ways to all inputs until it vanishes.

        Every step moves the coordinates and the factors of the inputs alike.
        """
        factors = self._start()
        at = factors @ self.units
        step = 0.0
        for _ in range(patience.max_iter):
            pulls, along = self._pulls(at)
            way = pulls @ self.units - along * at
            step = float(way.norm())
            if step < patience.tol or step == 0.0:
                break
            turn = math.sin(step) / step
            factors = math.cos(step) * factors + turn * (pulls - along * factors)
            at = math.cos(step) * at + turn * way
            length = at.norm()
            factors, at = factors / length, at / length
        return _Found(factors, step)

    def _start(self) -> torch.Tensor:
        """Return the factors of the mean direction, or of the first input."""
        length = float((self.weights @ self.units).norm())
        if length >= _NO_SUM:
            return self.weights / length
        first = torch.zeros_like(self.weights)
        first[int(self.weights.nonzero()[0])] = 1.0
        return first

    def _pulls(self, at: torch.Tensor) -> tuple[torch.Tensor, float]:
        """Return the logarithm map's factors of each input, and of ``at`` itself.

        The mean way is ``sum(w_i phi_i / sin(phi_i) (u_i - cos(phi_i) at))``.
        """
        cosines = self.units @ at
        # The angle from both its sides: arccos alone loses half the digits near zero.
        sines = (self.units - cosines[:, None] * at).norm(dim=1)
        phi = torch.atan2(sines, cosines)
        live = self.weights != 0.0
        if bool((live & (math.pi - phi < _OPPOSITE)).any()):
            raise CandidateError(
                f"{self.key}: an input points away from the mean of all, so there is "
                "no one shortest way to it. Change a weight or leave the input out."
            )
        ratio = torch.where(sines > 0.0, phi / sines, 1.0)
        pulls = torch.where(live, self.weights * ratio, 0.0)
        return pulls, float(pulls @ cosines)


def _weights(settings: Settings, key: str) -> torch.Tensor:
    weights = torch.tensor(settings.numbers("weight"), dtype=torch.float64)
    if "normalize" in settings.shared and not settings.flag("normalize"):
        return weights
    return weights / _divisor(float(weights.sum()), weights, key)


def _divisor(total: float, weights: torch.Tensor, key: str) -> float:
    if abs(total) < _NO_SUM:
        raise CandidateError(
            f"{key}: the weights {weights.tolist()} of a mean on the sphere sum to "
            "zero, so there is no mean. Change one."
        )
    return total


def _factors(
    direction: torch.Tensor, angles: Angles, length: float
) -> tuple[float, ...]:
    """Turn factors of unit vectors into factors of the inputs, at a length."""
    factors = torch.where(
        angles.lengths > 0.0, direction * (length / angles.lengths), 0.0
    )
    return tuple(float(factor) for factor in factors)


def _refuse_antipodal(angles: Angles, weights: torch.Tensor, inputs: Inputs) -> None:
    names = inputs.operation.inputs
    limit = -math.cos(_OPPOSITE)
    for i, name in enumerate(names):
        for j in range(i):
            counts = bool(weights[i] != 0.0) and bool(weights[j] != 0.0)
            if counts and float(angles.cosines[i, j]) <= limit:
                raise CandidateError(
                    f"{inputs.key}: inputs {names[j]!r} and {name!r} point in "
                    "opposite directions, so the Karcher mean is not defined. Leave "
                    "one out or merge them with linear."
                )
