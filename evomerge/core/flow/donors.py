"""Donors: the depth stays, and every layer is taken from one source or another.

A layer shuffle with the draw left to the search.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise, permutations

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.scales import UNSCALED, Scales, Scaling, Sites, edge, rescaled
from evomerge.core.flow.stock import LayerPool, Step
from evomerge.core.space import AllOf, Axis, ChoiceAxis, Condition
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
