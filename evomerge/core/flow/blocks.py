"""Blocks: the first source, of which neighbouring layers run again, together.

A model with one block of its own layers run twice is what is published as "repeat
yourself"; depth up-scaling (SOLAR, 2312.15166) is a point of this space too.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from itertools import combinations_with_replacement, product

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.layer_pool import LayerPool, Step
from evomerge.core.flow.scales import UNSCALED, Scales, Sites
from evomerge.core.space import Axis, IntAxis
from evomerge.core.trial import Point

MOST_LISTED = 20_000
"""Stacks of several blocks are not counted where more points than this have them."""


@dataclass(frozen=True, slots=True)
class Blocks:
    """The first source with up to so many of its blocks run several times.

    No point is impossible: a block ends with its source, is no longer than the depth
    allows, begins behind the block before it, and may have no layers.

    Attributes:
        stock: The layers, and how many may run.
        most: How many blocks.
        times: Most times that a block runs, at least two.
        scales: None are known.
    """

    stock: LayerPool
    most: int
    times: int
    scales: Scales = UNSCALED

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of each block."""
        return (tuple(self._axes(k) for k in range(self.most)),)

    @property
    def n_stacks(self) -> int | None:
        """How many different stacks there are; None if they are too hard to count."""
        if self.most > 1:
            return self._listed
        depth, room = self.stock.depth, self.stock.deepest - self.stock.depth
        longest = [room // (times - 1) for times in range(2, self.times + 1)]
        n_changed = sum(depth - n for most in longest for n in range(min(most, depth)))
        return 1 + n_changed

    @property
    def _listed(self) -> int | None:
        """How many stacks there are, found by making each; None if that is too long."""
        depth = self.stock.depth
        once = range(depth), range(depth + 1), range(1, self.times)
        if math.prod(map(len, once)) ** self.most > MOST_LISTED:
            return None
        blocks = combinations_with_replacement(product(*once), self.most)
        return len({tuple(self._order(some)) for some in blocks})

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""
        once = sum(Step(self.stock.first, i) in layers for i in range(self.stock.depth))
        return once + self.stock.deepest - self.stock.depth if once else 0

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks an axis of a block.
        """
        blocks = [self._read(k, point) for k in range(self.most)]
        return tuple(Step(self.stock.first, i) for i in self._order(blocks))

    def _order(self, blocks: Iterable[tuple[int, int, int]]) -> list[int]:
        """Return the layers that run.

        Args:
            blocks: The first layer, the number of layers, and how often they run again.
        """
        depth, room = self.stock.depth, self.stock.deepest - self.stock.depth
        order: list[int] = []
        done = 0  # layers of the source that have run
        for first, n_layers, again in sorted(blocks):
            begin = max(first, done)
            end = min(first + n_layers, depth, begin + room // again)
            if end > begin:
                block = range(begin, end)
                order += [*range(done, end), *(again * [*block])]
                room -= again * len(block)
                done = end
        return [*order, *range(done, depth)]

    def _stem(self, k: int) -> str:
        return "block" if self.most == 1 else f"block.{k}"

    def _read(self, k: int, point: Point) -> tuple[int, int, int]:
        """Return a block as ``_order`` takes it."""
        stem = self._stem(k)
        first, n_layers = (
            int(read(Coordinate(f"{stem}.{what}"), point))
            for what in ("first", "layers")
        )
        if self.times == 2:
            return first, n_layers, 1
        return first, n_layers, int(read(Coordinate(f"{stem}.times"), point)) - 1

    def _axes(self, k: int) -> tuple[Axis, ...]:
        stem, depth = self._stem(k), self.stock.depth
        axes = [
            IntAxis(f"{stem}.first", 0, depth - 1, depth // 3),
            IntAxis(f"{stem}.layers", 0, depth, 0),
        ]
        if self.times > 2:
            axes.append(IntAxis(f"{stem}.times", 2, self.times, 2))
        return tuple(axes)
