"""Search spaces: named axes, points on their grid, and how a point becomes a recipe.

A point is what people read and the database keeps; a vector in the unit box is what
continuous strategies move. Both directions go through here, so rounding happens once.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import numpy.typing as npt

from evomerge.core.digest import Scalar
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.trial import Point
from evomerge.errors import SpaceError

GRID_STEPS = 1000
"""Steps of a float axis that declares no grid of its own."""


@dataclass(frozen=True, slots=True)
class Condition:
    """The axis exists only while another has one of these values."""

    axis: str
    values: tuple[Scalar, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes it asks about."""
        return (self.axis,)

    def holds(self, point: Point) -> bool:
        """Tell whether the axis this condition guards is active at ``point``."""
        return self.axis in point and point[self.axis] in self.values


@dataclass(frozen=True, slots=True)
class AllOf:
    """The axis exists only while every one of several conditions holds."""

    conditions: tuple[Condition, ...]

    @property
    def axes(self) -> tuple[str, ...]:
        """The names of the axes they ask about."""
        return tuple(condition.axis for condition in self.conditions)

    def holds(self, point: Point) -> bool:
        """Tell whether the axis these conditions guard is active at ``point``."""
        return all(condition.holds(point) for condition in self.conditions)


When = Condition | AllOf | None
"""When an axis exists; None for always."""


@dataclass(frozen=True, slots=True)
class FloatAxis:
    """A real knob.

    Attributes:
        low: Smallest value.
        high: Largest value, above ``low``.
        start: Where a search begins; the middle if None.
        log: The unit box is logarithmic in the value.
        grid: Values are ``low + k * grid``; None means 1/1000 of the range. A
            logarithmic axis has its grid on the logarithm, 1000 steps.
        when: Condition under which the axis exists.
    """

    name: str
    low: float
    high: float
    start: float | None = None
    log: bool = False
    grid: float | None = None
    when: When = None

    @property
    def n_values(self) -> int:
        """How many values there are on the grid, both ends included."""
        if self.log or self.grid is None:
            return GRID_STEPS + 1
        return max(round((self.high - self.low) / self.grid), 1) + 1

    def value(self, unit: float) -> float:
        """Turn a coordinate in [0, 1] into the nearest value on the grid."""
        unit = min(max(unit, 0.0), 1.0)
        if self.log:
            step = round(unit * GRID_STEPS) / GRID_STEPS
            exact = self.low * (self.high / self.low) ** step
            return min(max(float(f"{exact:.6g}"), self.low), self.high)
        grid = self.grid or (self.high - self.low) / GRID_STEPS
        steps = round(unit * (self.high - self.low) / grid)
        # Twelve digits drop the noise of the multiplication: 0.3 stays 0.3.
        exact = float(f"{self.low + steps * grid:.12g}")
        return min(max(exact, self.low), self.high)

    def unit(self, value: Scalar) -> float:
        """Turn a value into its coordinate in [0, 1]."""
        number = float(value)
        if self.log:
            return math.log(number / self.low) / math.log(self.high / self.low)
        return (number - self.low) / (self.high - self.low)


@dataclass(frozen=True, slots=True)
class IntAxis:
    """A whole-number knob, both ends included."""

    name: str
    low: int
    high: int
    start: int | None = None
    when: When = None

    @property
    def n_values(self) -> int:
        """How many values there are."""
        return self.high - self.low + 1

    def value(self, unit: float) -> int:
        """Turn a coordinate in [0, 1] into a value; all values own equal shares."""
        n = self.n_values
        return self.low + min(int(min(max(unit, 0.0), 1.0) * n), n - 1)

    def unit(self, value: Scalar) -> float:
        """Turn a value into the middle of its share of [0, 1]."""
        return (int(value) - self.low + 0.5) / self.n_values


@dataclass(frozen=True, slots=True)
class ChoiceAxis:
    """A categorical knob."""

    name: str
    choices: tuple[Scalar, ...]
    start: Scalar | None = None
    when: When = None

    @property
    def n_values(self) -> int:
        """How many choices there are."""
        return len(self.choices)


Axis = FloatAxis | IntAxis | ChoiceAxis


@dataclass(frozen=True, slots=True)
class Strand:
    """Axes that follow one another through the depth of a model.

    What is decided at neighbouring places belongs together, so a strategy that mixes
    two points may cut both strands at one place and splice the parts.

    Attributes:
        sites: Names of the axes of each place, first to last; a place may have several,
            and no axis has two places.
    """

    sites: tuple[tuple[str, ...], ...]


class Blueprint(Protocol):
    """Turns a point into the recipe it stands for; pure."""

    def recipe(self, point: Point) -> Recipe:
        """Return the decided merge.

        Raises:
            SpaceError: The point lacks an axis this blueprint needs.
        """


@dataclass(frozen=True)
class SearchSpace:
    """Named axes, in order; a condition names earlier axes.

    Attributes:
        axes: Everything that is open.
        strands: Which axes follow one another through the depth of a model.
    """

    axes: tuple[Axis, ...]
    strands: tuple[Strand, ...] = ()

    def __post_init__(self) -> None:
        seen: set[str] = set()
        for axis in self.axes:
            if axis.name in seen:
                raise SpaceError(f"Axis {axis.name!r} stands twice in the space.")
            for needed in () if axis.when is None else axis.when.axes:
                if needed not in seen:
                    raise SpaceError(
                        f"Axis {axis.name!r} depends on {needed!r}, which must stand "
                        "before it."
                    )
            seen.add(axis.name)
        placed = [n for strand in self.strands for site in strand.sites for n in site]
        if len(placed) != len(set(placed)) or not seen.issuperset(placed):
            raise SpaceError("A strand names an axis twice, or one that is not there.")

    @property
    def is_numeric(self) -> bool:
        """Every axis is a number, whether it always exists or not: fit for CMA-ES."""
        return not any(isinstance(axis, ChoiceAxis) for axis in self.axes)

    def decode(self, vector: npt.NDArray[np.float64]) -> dict[str, Scalar]:
        """Turn a vector of the unit box into a point; numeric spaces only.

        Args:
            vector: Shape ``(n_axes,)``, float64, every entry in [0, 1]. The entry of an
                axis that does not exist there is ignored.

        Raises:
            SpaceError: The shape is wrong, an entry is NaN or outside [0, 1], or the
                space is not numeric.
        """
        if not self.is_numeric:
            raise SpaceError("Only a space of numbers has a unit box.")
        if vector.shape != (len(self.axes),):
            raise SpaceError(
                f"Expected a vector of shape ({len(self.axes)},), one entry per axis, "
                f"but got shape {vector.shape}."
            )
        inside = (vector >= 0.0) & (vector <= 1.0)  # NaN compares false
        if not inside.all():
            worst = self.axes[int(np.argmin(inside))].name
            raise SpaceError(
                f"Axis {worst!r} is outside [0, 1]. Strategies must clip before asking "
                "the space to decode."
            )
        point: dict[str, Scalar] = {}
        for axis, u in zip(self.axes, vector, strict=True):
            if isinstance(axis, ChoiceAxis):
                continue
            if axis.when is None or axis.when.holds(point):
                point[axis.name] = axis.value(float(u))
        return point

    def encode(self, point: Point) -> npt.NDArray[np.float64]:
        """Turn a point of a numeric space into its vector, shape ``(n_axes,)``.

        An axis that does not exist there is put where it starts.
        """
        self.check(point)
        return np.array(
            [
                axis.unit(point[axis.name] if axis.name in point else _start(axis))
                for axis in self.axes
                if not isinstance(axis, ChoiceAxis)
            ],
            dtype=np.float64,
        )

    def start(self) -> dict[str, Scalar]:
        """Return the point a search begins at: each axis' start, or its middle."""
        point: dict[str, Scalar] = {}
        for axis in self.axes:
            if axis.when is None or axis.when.holds(point):
                point[axis.name] = _start(axis)
        return point

    def random(self, rng: np.random.Generator) -> dict[str, Scalar]:
        """Draw a point: every active axis uniform on its own scale."""
        point: dict[str, Scalar] = {}
        for axis in self.axes:
            draw = float(rng.random())  # drawn even when inactive: streams stay aligned
            if axis.when is not None and not axis.when.holds(point):
                continue
            if isinstance(axis, ChoiceAxis):
                n = len(axis.choices)
                point[axis.name] = axis.choices[min(int(draw * n), n - 1)]
            else:
                point[axis.name] = axis.value(draw)
        return point

    def points(self) -> Iterator[dict[str, Scalar]]:
        """Yield every point on the grid once, the last axis changing first."""

        def below(i: int, point: dict[str, Scalar]) -> Iterator[dict[str, Scalar]]:
            if i == len(self.axes):
                yield point
                return
            axis = self.axes[i]
            if axis.when is not None and not axis.when.holds(point):
                yield from below(i + 1, point)
                return
            for value in _values(axis):
                yield from below(i + 1, {**point, axis.name: value})

        return below(0, {})

    def check(self, point: Point) -> None:
        """Refuse a point with missing, unknown or misplaced coordinates.

        Raises:
            SpaceError: Names every axis at fault.
        """
        known = {axis.name for axis in self.axes}
        faults = [f"{name!r} is no axis" for name in point if name not in known]
        for axis in self.axes:
            active = axis.when is None or axis.when.holds(point)
            if active != (axis.name in point):
                faults.append(
                    f"{axis.name!r} {'is missing' if active else 'is not active'}"
                )
            elif active and not _allows(axis, point[axis.name]):
                faults.append(f"{axis.name!r} cannot be {point[axis.name]!r}")
        if faults:
            raise SpaceError("Not a point of this space: " + "; ".join(faults) + ".")


def _start(axis: Axis) -> Scalar:
    if isinstance(axis, ChoiceAxis):
        return axis.choices[0] if axis.start is None else axis.start
    return axis.value(0.5 if axis.start is None else axis.unit(axis.start))


def _values(axis: Axis) -> Iterable[Scalar]:
    """Return every value on the grid, once."""
    if isinstance(axis, ChoiceAxis):
        return axis.choices
    if isinstance(axis, IntAxis):
        return range(axis.low, axis.high + 1)
    steps = axis.n_values - 1
    return dict.fromkeys(axis.value(step / steps) for step in range(steps + 1))


def _allows(axis: Axis, value: Scalar) -> bool:
    if isinstance(axis, ChoiceAxis):
        return value in axis.choices
    return isinstance(value, int | float) and axis.low <= value <= axis.high
