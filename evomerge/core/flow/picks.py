"""Any layer of any source, as axes."""

from __future__ import annotations

from dataclasses import dataclass

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.stock import LayerPool, Step
from evomerge.core.space import Axis, ChoiceAxis, Condition, IntAxis
from evomerge.core.trial import Point


@dataclass(frozen=True, slots=True)
class Pick:
    """A source, and one of its layers.

    Sources of one depth share the axis of the layer, so that the place is kept where
    the source changes; sources of another depth have an axis of their own.

    Attributes:
        stem: Beginning of the axes' names.
        what: Name of the axis of the layer, behind the stem.
        stock: The layers at hand.
    """

    stem: str
    what: str
    stock: LayerPool

    def axes(self, when: Condition) -> tuple[Axis, ...]:
        """Return the axes, which exist under one condition."""
        source = f"{self.stem}.source"
        names = self.stock.names
        out: list[Axis] = []
        if len(names) > 1:
            out.append(ChoiceAxis(source, names, names[0], when))
        depths = self._depths
        for depth in depths:
            alike = tuple(name for name, n in self.stock.sources if n == depth)
            mine = when if len(depths) == 1 else Condition(source, alike)
            out.append(IntAxis(self._layer(depth), 0, depth - 1, when=mine))
        return tuple(out)

    def step(self, point: Point) -> Step:
        """Return the layer a point picks.

        Raises:
            SpaceError: The point lacks one of the axes.
        """
        name = self.stock.first
        if len(self.stock.names) > 1:
            name = str(read(Coordinate(f"{self.stem}.source"), point))
        depth = dict(self.stock.sources)[name]
        return Step(name, int(read(Coordinate(self._layer(depth)), point)))

    @property
    def _depths(self) -> tuple[int, ...]:
        return tuple(dict.fromkeys(n for _, n in self.stock.sources))

    def _layer(self, depth: int) -> str:
        several = len(self._depths) > 1
        return f"{self.stem}.{self.what}" + (f".of{depth}" if several else "")
