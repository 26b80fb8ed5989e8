"""How a space looks to an evolution strategy: numbers alone, or beside categories.

Fine axes move in [0, 1]. An axis of few values moves in steps, one unit a value, so
that the strategy's integer handling keeps a step's worth of spread; otherwise the
spread shrinks inside one value's share and the axis freezes.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge.core.digest import Scalar
from evomerge.core.space import (
    GRID_STEPS,
    Axis,
    ChoiceAxis,
    FloatAxis,
    IntAxis,
    SearchSpace,
)
from evomerge.core.trial import Point
from evomerge.strategies.genetic.genomes import Genetics, Genome, position

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
        self._n_values = np.array([axis.n_values for axis in space.axes])
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


class Mixture:
    """Sorts the axes of a space, and turns what is drawn for them into points.

    A number of many values is continuous in [0, 1]; one of a few, at least three, has
    its values in order; two values or choices are categories. An axis of one value has
    no coordinate. The coordinates of a space of nothing but such axes are one idle
    number.

    Attributes:
        n_fine: Continuous coordinates.
        rows: Number of values of each ordered coordinate.
        categories: Number of values of each categorical coordinate.
    """

    def __init__(self, space: SearchSpace) -> None:
        self._genetics = Genetics(space)
        self._fine: list[FloatAxis | IntAxis] = []
        self._ordered: list[FloatAxis | IntAxis] = []
        self._sorted: list[Axis] = []
        self._values: dict[str, Sequence[Scalar]] = {}
        for axis in space.axes:
            self._place(axis)
        self._constant = {n: v[0] for n, v in self._values.items() if len(v) == 1}
        self._is_idle = not (self._fine or self._ordered or self._sorted)
        self.n_fine = len(self._fine) + self._is_idle
        self.rows = [len(self._values[axis.name]) for axis in self._ordered]
        self.categories = [len(self._values[axis.name]) for axis in self._sorted]

    def _place(self, axis: Axis) -> None:
        if not isinstance(axis, ChoiceAxis):
            most = GRID_STEPS if isinstance(axis, IntAxis) else STEPPED_UP_TO
            if (n := axis.n_values) > most:
                self._fine.append(axis)
                return
            if n > 2:
                self._ordered.append(axis)
        self._values[axis.name] = values = _values(axis)
        if len(values) == 2 or (len(values) > 2 and isinstance(axis, ChoiceAxis)):
            self._sorted.append(axis)

    @property
    def n_numbers(self) -> int:
        """Coordinates that are no categories."""
        return self.n_fine + len(self.rows)

    @property
    def widths(self) -> Vector:
        """Width of each continuous, then of each ordered coordinate."""
        return np.array([*[1.0] * self.n_fine, *self.rows], dtype=np.float64)

    def start(self) -> tuple[Vector, Vector]:
        """Return where a search begins; see ``at``.

        A category whose start nobody declared has no preference.
        """
        means, chances = self.at(self._genetics.start())
        for row, axis, n in zip(chances, self._sorted, self.categories, strict=True):
            if axis.start is None:
                row[:n] = 1.0 / n
        return means, chances

    def random(self, rng: np.random.Generator) -> tuple[Vector, Vector]:
        """Return a random place of the numbers, and categories without preference."""
        means, chances = self.at(self._genetics.random(rng))
        for row, n in zip(chances, self.categories, strict=True):
            row[:n] = 1.0 / n
        return means, chances

    def at(self, genome: Genome) -> tuple[Vector, Vector]:
        """Turn a genome into coordinates.

        Returns:
            The numbers, shape ``(n_fine + n_ordered,)``, and the chance of each
            category, shape ``(n_categorical, most categories)``, zero behind the last.
        """
        numbers = [axis.unit(genome[axis.name]) for axis in self._fine]
        numbers += [0.5] * self._is_idle
        numbers += [float(self._index(axis, genome)) for axis in self._ordered]
        chances = np.zeros((len(self._sorted), max(self.categories, default=0)))
        for row, axis in zip(chances, self._sorted, strict=True):
            row[self._index(axis, genome)] = 1.0
        return np.clip(numbers, 0.0, None), chances

    def _index(self, axis: Axis, genome: Genome) -> int:
        if isinstance(axis, ChoiceAxis):
            return position(axis, genome[axis.name]) or 0
        return self._values[axis.name].index(genome[axis.name])

    def point(self, drawn: Any) -> Point:
        """Turn what CatCMA drew into the nearest point.

        Args:
            drawn: A solution with ``x``, ``z`` and ``c`` (one-hot rows), each None
                where there are no such coordinates.
        """
        genome = dict(self._constant)
        for number, unit in zip(self._fine, _given(drawn.x), strict=False):
            genome[number.name] = number.value(float(unit))
        for axis, index in zip(self._ordered, _given(drawn.z), strict=True):
            genome[axis.name] = self._values[axis.name][int(index)]
        for sort, row in zip(self._sorted, _given(drawn.c), strict=True):
            genome[sort.name] = self._values[sort.name][int(np.argmax(row))]
        return self._genetics.point(genome)


def _given(drawn: Any) -> Any:
    return () if drawn is None else drawn


def _values(axis: Axis) -> list[Scalar]:
    """List the values of a number, in order."""
    if isinstance(axis, ChoiceAxis):
        return list(axis.choices)
    if isinstance(axis, IntAxis):
        return list(range(axis.low, axis.high + 1))
    grid = axis.grid or 1.0
    return [axis.value(k * grid / (axis.high - axis.low)) for k in range(axis.n_values)]
