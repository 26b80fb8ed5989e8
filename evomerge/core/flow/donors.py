"""The depth stays, and every layer is taken from one source or another.

``Donors`` leave the draw of a layer shuffle to the search. ``Switches`` let the source
change at a few places only, as the evolved boundaries of M2N2 (2508.16204) do, here at
layers instead of single numbers: fewer axes, and neighbours stay together.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise, permutations
from math import comb

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.layer_pool import LayerPool, Step
from evomerge.core.flow.scales import (
    UNSCALED,
    Run,
    Scales,
    Scaling,
    Sites,
    edge,
    joined,
    rescaled,
)
from evomerge.core.space import AllOf, Axis, ChoiceAxis, Condition, IntAxis
from evomerge.core.trial import Point


@dataclass(frozen=True, slots=True)
class Donors:
    """Layer ``l`` is layer ``l`` of some source; all sources are of one depth.

    Attributes:
        stock: The layers.
        scales: ``layer`` is a scale for every layer; ``edge`` one for every change from
            one source to another.
    """

    stock: LayerPool
    scales: Scales = UNSCALED

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of each layer that has any."""
        names = self.stock.names
        free = {step.index for step in self.stock.inner}
        sites: list[tuple[Axis, ...]] = []
        for layer in range(self.stock.depth):
            site: list[Axis] = []
            if layer in free:
                site.append(ChoiceAxis(f"donor.{layer}", names, names[0]))
            if self.scales.kind is Scaling.LAYER:
                site.append(self.scales.axis(f"scale.{layer}"))
            if self.scales.kind is Scaling.EDGE and layer > 0:
                site += self._changes(layer)
            sites.append(tuple(site))
        return (tuple(site for site in sites if site),)

    @property
    def n_stacks(self) -> int:
        """How many different stacks there are."""
        return int(len(self.stock.names) ** len(self.stock.inner))

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""
        return self.stock.most_in_place(layers)

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks a donor.
        """
        steps = self.stock.whole(
            [
                Step(str(read(Coordinate(f"donor.{step.index}"), point)), step.index)
                for step in self.stock.inner
            ]
        )
        if self.scales.kind is Scaling.LAYER:
            return self.scales.by_place(steps, point)
        if self.scales.kind is Scaling.EDGE:
            jumps = (edge(*pair) for pair in pairwise(steps))
            return rescaled(steps, (self.scales.read(name, point) for name in jumps))
        return steps

    def _changes(self, layer: int) -> list[Axis]:
        """Return the scales of every change of the source that lands at a layer."""
        axes: list[Axis] = []
        for one, other in permutations(self.stock.names, 2):
            met = [(layer - 1, one), (layer, other)]
            when = [self._given(i, name) for i, name in met]
            if None not in when:
                named = edge(Step(one, layer - 1), Step(other, layer))
                known = tuple(c for given in when if given for c in given)
                axes.append(self.scales.axis(named, AllOf(known)))
        return axes

    def _given(self, layer: int, name: str) -> tuple[Condition, ...] | None:
        """Return when a layer is this source's; None for never."""
        if all(step.index != layer for step in self.stock.inner):
            return () if name == self.stock.first else None
        return (Condition(f"donor.{layer}", (name,)),)


@dataclass(frozen=True, slots=True)
class Switches:
    """Runs of layers of one source each, between places where it may change.

    All sources are of one depth. No point is impossible: places are taken in order of
    depth, and of two at one layer the later one counts.

    Attributes:
        stock: The layers.
        most: How many places, fewer than there are layers between the pinned ends.
        scales: ``layer`` is a scale for every layer; ``edge`` one for every place where
            the source may change.
    """

    stock: LayerPool
    most: int
    scales: Scales = UNSCALED

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of each run of layers: where it begins, whose it is, its scale.

        Scales of single layers are a strand of their own.
        """
        names, inner = self.stock.names, self.stock.inner
        sites: list[tuple[Axis, ...]] = []
        for k in range(self.most + 1):
            site: list[Axis] = []
            if k > 0:
                low, high = inner[1].index, inner[-1].index
                even = inner[0].index + round(len(inner) * k / (self.most + 1))
                start = max(low, min(even, high))
                site.append(IntAxis(f"switch.{k}", low, high, start))
            site.append(ChoiceAxis(f"donor.{k}", names, names[0]))
            sites.append((*site, *self._seam(k)))
        end = self._seam(self.most + 1)
        runs = (*sites, *([end] if end else []))
        return (runs, self._layers) if self._layers else (runs,)

    @property
    def _layers(self) -> Sites:
        """The axes of each layer, where every layer has a scale."""
        if self.scales.kind is not Scaling.LAYER:
            return ()
        return tuple((self.scales.axis(f"scale.{i}"),) for i in range(self.stock.depth))

    @property
    def n_stacks(self) -> int:
        """How many different stacks there are."""
        n, others = len(self.stock.inner), len(self.stock.names) - 1
        return sum(
            comb(n - 1, changes) * (others + 1) * others**changes
            for changes in range(self.most + 1)
        )

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""
        return self.stock.most_in_place(layers)

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks an axis of a run.
        """
        inner = self.stock.inner
        places = [
            int(read(Coordinate(f"switch.{k}"), point)) for k in range(1, self.most + 1)
        ]
        begins = [inner[0].index, *sorted(places), inner[-1].index + 1]
        runs: list[Run] = [("", self.stock.head)]
        for k in range(self.most + 1):
            donor = str(read(Coordinate(f"donor.{k}"), point))
            layers = range(begins[k], begins[k + 1])
            runs.append((f"scale.{k}", [Step(donor, layer) for layer in layers]))
        runs.append((f"scale.{self.most + 1}", self.stock.tail))
        if self.scales.kind is Scaling.LAYER:
            steps = [step for _, run in runs for step in run]
            return self.scales.by_place(steps, point)
        return joined(runs, self.scales, point)

    def _seam(self, k: int) -> tuple[Axis, ...]:
        """Return the scale at the beginning of a run, or of the pinned end."""
        if self.scales.kind is not Scaling.EDGE:
            return ()
        name, others = f"scale.{k}", self.stock.names[1:]
        if 0 < k <= self.most:
            return (self.scales.axis(name),)
        end = self.stock.head if k == 0 else self.stock.tail
        beside = min(k, self.most)
        when = Condition(f"donor.{beside}", others)
        return (self.scales.axis(name, when),) if end else ()
