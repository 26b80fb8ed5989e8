"""Slices: runs of layers of any source, one after another, their ends searched.

Frankenmerges (MergeKit's passthrough, 2403.13257) and depth up-scaling (SOLAR,
2312.15166) are points of this space.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.layer_pool import LayerPool, Pick, Step
from evomerge.core.flow.scales import UNSCALED, Run, Scales, Scaling, Sites, joined
from evomerge.core.space import Axis, Condition, IntAxis
from evomerge.core.trial import Point


@dataclass(frozen=True, slots=True)
class Slices:
    """Up to so many runs of layers.

    A slice that would run beyond its source ends with it. No point is impossible: of
    too many layers the last are cut off, and where there are too few the first source
    runs as it stands.

    Attributes:
        stock: The layers, and how many may run.
        most: How many slices.
        scales: ``edge`` is a scale for the beginning of every slice.
    """

    stock: LayerPool
    most: int
    scales: Scales = UNSCALED

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of each slice."""
        sites = [self._axes(k) for k in range(self.most)]
        if self.scales.kind is Scaling.EDGE and self.stock.tail:
            sites.append((self.scales.axis(f"slice.{self.most}.scale"),))
        return (tuple(sites),)

    @property
    def n_stacks(self) -> int:
        """How many different stacks there are."""
        depths = [n for _, n in self.stock.sources]
        return n_concatenations(depths, self.most, *self.stock.bounds)

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""
        any_at_all = any(step in layers for step in self.stock.layers)
        return self.stock.deepest if any_at_all else 0

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks an axis of a slice.
        """
        fewest, most = self.stock.bounds
        runs: list[Sequence[Step]] = []
        for k in range(self.most):
            left = most - sum(map(len, runs))
            runs.append(self._slice(k, point)[:left])
        if sum(map(len, runs)) < fewest:
            return self.stock.whole(self.stock.inner)
        ends = (self.stock.head, self.stock.tail)
        named = [("", ends[0]), *self._named([*runs, ends[1]])]
        return joined(named, self.scales, point)

    def _named(self, runs: Sequence[Sequence[Step]]) -> list[Run]:
        return [(f"slice.{k}.scale", run) for k, run in enumerate(runs)]

    def _axes(self, k: int) -> tuple[Axis, ...]:
        stem, inner = f"slice.{k}", self.stock.inner
        longest = max(n for _, n in self.stock.sources)
        runs = Condition(f"{stem}.layers", tuple(range(1, longest + 1)))
        whole = k == 0 and len(inner) > 0
        axes: list[Axis] = [
            IntAxis(f"{stem}.layers", 0, longest, len(inner) if whole else 0)
        ]
        for axis in self._pick(k).axes(runs):
            if isinstance(axis, IntAxis) and whole:
                begin = min(inner[0].index, axis.high)
                axes.append(replace(axis, start=begin))
            else:
                axes.append(axis)
        if self.scales.kind is Scaling.EDGE and (k > 0 or self.stock.head):
            axes.append(self.scales.axis(f"{stem}.scale", runs))
        return tuple(axes)

    def _pick(self, k: int) -> Pick:
        return Pick(f"slice.{k}", "first", self.stock)

    def _slice(self, k: int, point: Point) -> Sequence[Step]:
        n_layers = int(read(Coordinate(f"slice.{k}.layers"), point))
        if n_layers == 0:
            return []
        first = self._pick(k).step(point)
        end = min(first.index + n_layers, dict(self.stock.sources)[first.source])
        return [Step(first.source, i) for i in range(first.index, end)]


def n_concatenations(depths: list[int], most_runs: int, fewest: int, most: int) -> int:
    """Count the different stacks of up to so many runs of layers, exactly.

    A stack needs as many runs as it has layers that do not follow the one before.

    Args:
        depths: Layers of each source.
        most_runs: Most runs.
        fewest: Fewest layers that count.
        most: Most layers that count.
    """
    n_layers = sum(depths)
    followers = [i for i in range(n_layers) if i not in _beginnings(depths)]
    # counts[runs][layer]: stacks of the present length that end with this layer.
    counts = [[0] * n_layers for _ in range(most_runs + 1)]
    if most_runs:
        counts[1] = [1] * n_layers
    total = int(fewest == 0)
    for length in range(1, most + 1):
        if length >= fewest:
            total += sum(map(sum, counts))
        new = [[0] * n_layers for _ in range(most_runs + 1)]
        for runs in range(1, most_runs + 1):
            jumping, staying = sum(counts[runs - 1]), counts[runs]
            new[runs] = [jumping] * n_layers
            for layer in followers:
                new[runs][layer] += staying[layer - 1] - counts[runs - 1][layer - 1]
        counts = new
    return total


def _beginnings(depths: list[int]) -> set[int]:
    """Return the first layer of each source, of all layers in serial order."""
    return {sum(depths[:i]) for i in range(len(depths))}
