"""The layers at hand, how many of them a stack may have, and one of them as axes."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.space import Axis, ChoiceAxis, Condition, IntAxis
from evomerge.core.trial import Point


@dataclass(frozen=True, slots=True)
class Step:
    """One layer that runs.

    Attributes:
        source: Whose layer.
        index: Which one, from 0.
        scale: Factor on the hidden state that enters it.
    """

    source: str
    index: int
    scale: float = 1.0

    @property
    def name(self) -> str:
        """How axes call the layer."""
        return f"{self.source}.{self.index}"

    def follows(self, other: Step) -> bool:
        """Tell whether ``other`` is the layer before this one in its own source."""
        return (self.source, self.index) == (other.source, other.index + 1)


@dataclass(frozen=True, slots=True)
class LayerPool:
    """Where a stack may take its layers from, and how deep it may be.

    The first source is the one a search begins with, as it stands; its depth lies
    within the bounds.

    Attributes:
        sources: Name and number of layers, in serial order.
        shallowest: Fewest layers of a stack.
        deepest: Most layers of a stack.
        pinned: Every stack begins with the first layer of the first source and ends
            with its last.
    """

    sources: tuple[tuple[str, int], ...]
    shallowest: int
    deepest: int
    pinned: bool = True

    def __post_init__(self) -> None:
        if not 1 <= self.shallowest <= self.depth <= self.deepest:
            raise ValueError(
                f"Expected the {self.depth} layers of {self.first!r} to lie between "
                f"1 <= {self.shallowest} and {self.deepest}."
            )

    @property
    def first(self) -> str:
        """The source a search begins with."""
        return self.sources[0][0]

    @property
    def depth(self) -> int:
        """Layers of the first source."""
        return self.sources[0][1]

    @property
    def names(self) -> tuple[str, ...]:
        """The sources, in serial order."""
        return tuple(name for name, _ in self.sources)

    @property
    def layers(self) -> tuple[Step, ...]:
        """Every layer of every source, in serial order."""
        return tuple(Step(name, i) for name, n in self.sources for i in range(n))

    @property
    def head(self) -> tuple[Step, ...]:
        """What every stack begins with."""
        return (Step(self.first, 0),) if self.pinned else ()

    @property
    def tail(self) -> tuple[Step, ...]:
        """What every stack ends with; a source of one layer is pinned in front."""
        if not self.pinned or self.depth == 1:
            return ()
        return (Step(self.first, self.depth - 1),)

    @property
    def inner(self) -> tuple[Step, ...]:
        """The first source without what is pinned."""
        indices = range(len(self.head), self.depth - len(self.tail))
        return tuple(Step(self.first, i) for i in indices)

    @property
    def bounds(self) -> tuple[int, int]:
        """Fewest and most layers between the pinned ends."""
        n_pinned = len(self.head) + len(self.tail)
        return max(self.shallowest - n_pinned, 0), self.deepest - n_pinned

    def most_in_place(self, layers: Collection[Step]) -> int:
        """Return in how many places one of these layers can stand, if none moves."""
        ends = sum(step in layers for step in (*self.head, *self.tail))
        free = (
            any(Step(name, step.index) in layers for name in self.names)
            for step in self.inner
        )
        return ends + sum(free)

    def whole(self, inner: Sequence[Step]) -> tuple[Step, ...]:
        """Put the pinned ends around what lies between them."""
        return (*self.head, *inner, *self.tail)


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
