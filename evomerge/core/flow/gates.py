"""Gates: every layer of every source in series, each of them on or off.

Akiba et al. 2025 (2403.13187), data flow space: the layers of all sources are laid out
in series, the list is repeated, and an indicator says of every place whether it runs.
The paper's indicators are real numbers, on above 0; here they are whole numbers, on at
1, which strategies for numbers treat the same way.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from itertools import combinations

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.layer_pool import LayerPool, Step
from evomerge.core.flow.scales import UNSCALED, Scales, Scaling, Sites
from evomerge.core.flow.size import n_subsequences
from evomerge.core.space import AllOf, Axis, Condition, IntAxis, When
from evomerge.core.trial import Point


@dataclass(frozen=True, slots=True)
class _Place:
    """One place of the series; pinned ones have no gate."""

    name: str
    step: Step
    gate: str | None = None


@dataclass(frozen=True, slots=True)
class Gates:
    """Layers in series, each on or off.

    No point is impossible. Too many layers: only the first ``deepest`` that are on
    run. Too few: those that are off are turned on, from the first.

    Attributes:
        stock: The layers, and how many may run.
        repeats: How often the series is repeated.
        scales: ``layer`` is a scale for every gate that is on; ``edge`` one for every
            pair of places with nothing running between them, unless the second follows
            the first in its own source.
    """

    stock: LayerPool
    repeats: int = 1
    scales: Scales = UNSCALED

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of each place, first to last."""
        inner = self._inner
        sites: list[tuple[Axis, ...]] = []
        for place in inner:
            gate = IntAxis(str(place.gate), 0, 1, self._start(place))
            sites.append((gate, *self._own_scale(place)))
        if self.scales.kind is Scaling.EDGE:
            series = (*self._ends(0), *inner, *self._ends(1))
            return (self._with_edges(series, sites),)
        return ((*self._pinned_scales(0), *sites, *self._pinned_scales(1)),)

    @property
    def n_stacks(self) -> int:
        """How many different stacks there are."""
        letters = [place.step.name for place in self._inner]
        return n_subsequences(letters, *self.stock.bounds)

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""
        places = (*self._ends(0), *self._inner, *self._ends(1))
        found = sum(place.step in layers for place in places)
        return min(found, self.stock.deepest)

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks a gate.
        """
        inner = self._inner
        is_on = [read(Coordinate(str(p.gate)), point) == 1 for p in inner]
        fewest, most = self.stock.bounds
        on = [t for t, runs in enumerate(is_on) if runs][:most]
        off = [t for t, runs in enumerate(is_on) if not runs]
        on += off[: max(fewest - len(on), 0)]
        places = (*self._ends(0), *(inner[t] for t in sorted(on)), *self._ends(1))
        return tuple(
            replace(place.step, scale=self._scale(before, place, point))
            for before, place in zip((None, *places), places, strict=False)
        )

    @property
    def _inner(self) -> list[_Place]:
        """Every place with a gate."""
        pinned = {step.name for step in (*self.stock.head, *self.stock.tail)}
        return [
            _Place(name, step, f"gate.{name}")
            for repeat in range(self.repeats)
            for step in self.stock.layers
            for name in (f"{repeat}.{step.name}" if self.repeats > 1 else step.name,)
            if repeat > 0 or step.name not in pinned
        ]

    def _ends(self, which: int) -> tuple[_Place, ...]:
        """Return the pinned beginning (0) or end (1); the end is behind all repeats."""
        steps = (self.stock.head, self.stock.tail)[which]
        names = ("first", "last")
        return tuple(_Place(names[which], step) for step in steps)

    def _start(self, place: _Place) -> int:
        """Tell whether a search begins with this layer on: the first source, once."""
        is_first = self.repeats == 1 or place.name.startswith("0.")
        return int(is_first and place.step.source == self.stock.first)

    def _own_scale(self, place: _Place) -> tuple[Axis, ...]:
        if self.scales.kind is not Scaling.LAYER:
            return ()
        when = None if place.gate is None else Condition(place.gate, (1,))
        return (self.scales.axis(f"scale.{place.name}", when),)

    def _pinned_scales(self, which: int) -> Sites:
        sites = (self._own_scale(place) for place in self._ends(which))
        return tuple(site for site in sites if site)

    def _with_edges(
        self, series: Sequence[_Place], sites: Sequence[tuple[Axis, ...]]
    ) -> Sites:
        """Put the axis of each jump to where it lands."""
        gates = iter(sites)
        out = {p.name: next(gates) if p.gate else () for p in series}
        for i, j in combinations(range(len(series)), 2):
            one, other = series[i], series[j]
            if not other.step.follows(one.step):
                when = _meeting(series[i : j + 1])
                out[other.name] += (self.scales.axis(_edge(one, other), when),)
        return tuple(site for site in out.values() if site)

    def _scale(self, before: _Place | None, place: _Place, point: Point) -> float:
        if self.scales.kind is Scaling.LAYER:
            return self.scales.read(f"scale.{place.name}", point)
        if self.scales.kind is Scaling.EDGE and before is not None:
            return self.scales.read(_edge(before, place), point)
        return 1.0


def _edge(one: _Place, other: _Place) -> str:
    return f"scale.{one.name}.{other.name}"


def _meeting(between: Sequence[_Place]) -> When:
    """Return when the outer two of some places run, and none between them."""
    ends = (between[0], between[-1])
    return AllOf(
        tuple(
            Condition(place.gate, (int(place in ends),))
            for place in between
            if place.gate is not None
        )
    )
