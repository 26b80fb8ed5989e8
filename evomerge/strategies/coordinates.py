"""How a numeric space looks to an evolution strategy.

Fine axes move in [0, 1]. An axis of few values moves in steps, one unit a value, so
that the strategy's integer handling keeps a step's worth of spread; otherwise the
spread shrinks inside one value's share and the axis freezes.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from evomerge.core.digest import Scalar
from evomerge.core.space import GRID_STEPS, FloatAxis, IntAxis, SearchSpace
from evomerge.core.trial import Point

STEPPED_UP_TO = 20
"""Most values of a float axis that is moved in steps."""

Vector = npt.NDArray[np.float64]


class Coordinates:
    """Maps vectors of a strategy to points and back; numeric spaces only.

    Attributes:
        low: Lower bounds, shape ``(n_axes,)``.
        high: Upper bounds, shape ``(n_axes,)``.
        scale: Natural width of each coordinate, shape ``(n_axes,)``: a step size of
            0.2 means a fifth of this.
        grid: Distance of neighbouring values, shape ``(n_axes,)``.
        stepped: Indices of the coordinates whose values are whole numbers.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._space = space
        self._n_values = np.array([n_values(axis) for axis in space.axes])
        self._is_int = np.array([isinstance(axis, IntAxis) for axis in space.axes])
        stepped = self._is_int | (self._n_values <= STEPPED_UP_TO)
        self.stepped = [int(i) for i in np.flatnonzero(stepped)]
        self.low = np.where(stepped, -0.5, 0.0)
        self.high = np.where(stepped, self._n_values - 0.5, 1.0)
        self.scale = np.where(stepped, self._n_values.astype(float), 1.0)
        # A one-value axis has no step; the 1 only keeps the division defined.
        steps = np.maximum(self._n_values - 1, 1)
        self.grid = np.where(stepped, 1.0, 1.0 / steps)
        # Unit coordinate of step k is (k + offset) / share.
        self._offset = np.where(self._is_int, 0.5, 0.0)
        self._share = np.where(self._is_int, self._n_values, steps).astype(float)

    def point(self, vector: Vector) -> dict[str, Scalar]:
        """Turn a vector within the bounds into the nearest point of the space."""
        unit = np.array(vector, dtype=np.float64)
        i = self.stepped
        unit[i] = (np.rint(unit[i]) + self._offset[i]) / self._share[i]
        return self._space.decode(np.clip(unit, 0.0, 1.0))

    def vector(self, point: Point) -> Vector:
        """Turn a point into its vector, shape ``(n_axes,)``."""
        out = self._space.encode(point)
        i = self.stepped
        out[i] = np.rint(out[i] * self._share[i] - self._offset[i])
        return np.clip(out, self.low, self.high)

    def told(self, point: Point, asked: Vector) -> Vector:
        """Turn a point into its vector; axes it lacks stay where they were asked.

        Args:
            point: What ``point(asked)`` gave.
            asked: Shape ``(n_axes,)``; the result says nothing about the entries of
                axes that do not exist at this point, so they must not move.
        """
        here = np.array([axis.name in point for axis in self._space.axes])
        return np.where(here, self.vector(point), asked)

    def draw(self, rng: np.random.Generator) -> Vector:
        """Draw the vector of a uniformly random point, its missing axes too."""
        point = self._space.random(rng)
        missing = [axis.name not in point for axis in self._space.axes]
        vector = self.vector(point)
        vector[missing] = rng.uniform(self.low[missing], self.high[missing])
        return vector


def n_values(axis: object) -> int:
    """Return how many values a number has, as far as searches tell them apart."""
    """Return how many values a number has, as far as a search tells them apart."""
    if isinstance(axis, IntAxis):
        return axis.high - axis.low + 1
    if isinstance(axis, FloatAxis) and axis.grid is not None and not axis.log:
        return max(round((axis.high - axis.low) / axis.grid), 1) + 1
    return GRID_STEPS + 1
