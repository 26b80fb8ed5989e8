"""Edits: the first source, with a few layers skipped, repeated, swapped or inserted.

For small budgets: a stack is near one that is known to work (docs/study-files.md, "Data
flow"). Every edit speaks of the layers of the first source as they were, so edits can
be put together in any order, and two of them may cancel.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from evomerge.core.blueprint import Coordinate, read
from evomerge.core.flow.layer_pool import LayerPool, Pick, Step
from evomerge.core.flow.scales import UNSCALED, Scales, Scaling, Sites
from evomerge.core.flow.size import n_words_near
from evomerge.core.space import Axis, ChoiceAxis, Condition, IntAxis
from evomerge.core.trial import Point

SKIP, REPEAT, SWAP, INSERT = "skip", "repeat", "swap", "insert"
NONE = "none"


@dataclass(slots=True)
class _Draft:
    """A stack under edit.

    Attributes:
        layers: What stands at each inner layer of the first source.
        runs: How often it runs: the scale of each time.
        before: What was inserted before it, and before the end.
    """

    layers: list[Step]
    runs: list[list[float]]
    before: list[list[Step]]


@dataclass(frozen=True, slots=True)
class Edits:
    """The first source after up to so many edits.

    ``skip`` runs a layer once less (and takes a repeat back), ``repeat`` once more
    (and brings a skipped one back), ``swap`` puts any layer of any source in its
    place, ``insert`` one before it. No point is impossible: while the result is too
    deep or too shallow, the last edit is left out.

    Attributes:
        stock: The layers, and how many may run.
        most: How many edits.
        scales: ``layer`` is a scale for every layer that an edit places.
    """

    stock: LayerPool
    most: int
    scales: Scales = UNSCALED

    @property
    def strands(self) -> tuple[Sites, ...]:
        """The axes of each edit."""
        return (tuple(self._axes(k) for k in range(self.most)),)

    @property
    def n_stacks(self) -> int | None:
        """How many different stacks there are; None if they are too hard to count."""
        # A repeat is an insertion too, so these are the words within an edit distance
        # (Levenshtein) of the inner layers, over the alphabet of all layers.
        n_letters = len(self.stock.layers)
        fewest, most = self.stock.bounds
        return n_words_near(len(self.stock.inner), n_letters, self.most, (fewest, most))

    def most_of(self, layers: Collection[Step]) -> int:
        """Return the most places of one stack that these layers can take."""
        own = sum(step in layers for step in self.stock.whole(self.stock.inner))
        more = any(step in layers for step in self.stock.layers)
        return min(own + self.most * more, self.stock.deepest)

    def steps(self, point: Point) -> tuple[Step, ...]:
        """Return the layers a point runs.

        Raises:
            SpaceError: The point lacks an axis of an edit.
        """
        fewest, most = self.stock.bounds
        for n in range(self.most, 0, -1):
            inner = self._edited(n, point)
            if fewest <= len(inner) <= most:
                return self.stock.whole(inner)
        return self.stock.whole(self.stock.inner)

    def _axes(self, k: int) -> tuple[Axis, ...]:
        stem, inner = f"edit.{k}", self.stock.inner
        kinds = (NONE, *((SKIP, REPEAT, SWAP) if inner else ()), INSERT)
        axes: list[Axis] = [ChoiceAxis(f"{stem}.kind", kinds, NONE)]
        if inner:
            there = Condition(f"{stem}.kind", (SKIP, REPEAT, SWAP))
            low, high = inner[0].index, inner[-1].index
            axes.append(IntAxis(f"{stem}.at", low, high, when=there))
        gaps = self._gaps
        if len(gaps) > 1:
            inserts = Condition(f"{stem}.kind", (INSERT,))
            axes.append(IntAxis(f"{stem}.before", gaps[0], gaps[-1], when=inserts))
        placing = tuple(kind for kind in kinds if kind in (SWAP, INSERT))
        axes += self._pick(k).axes(Condition(f"{stem}.kind", placing))
        if self.scales.kind is Scaling.LAYER:
            scaled = tuple(kind for kind in kinds if kind not in (NONE, SKIP))
            axes.append(
                self.scales.axis(f"{stem}.scale", Condition(f"{stem}.kind", scaled))
            )
        return tuple(axes)

    @property
    def _gaps(self) -> range:
        """Before which layers something may be inserted; the last is the end."""
        first = len(self.stock.head)
        return range(first, first + len(self.stock.inner) + 1)

    def _pick(self, k: int) -> Pick:
        return Pick(f"edit.{k}", "layer", self.stock)

    def _edited(self, n: int, point: Point) -> list[Step]:
        """Carry out the first ``n`` edits."""
        inner = self.stock.inner
        draft = _Draft(
            list(inner), [[1.0] for _ in inner], [[] for _ in range(len(inner) + 1)]
        )
        for k in range(n):
            self._edit(draft, k, point)
        out: list[Step] = []
        for layer, runs, before in zip(
            draft.layers, draft.runs, draft.before, strict=False
        ):
            out += before
            out += [replace(layer, scale=scale) for scale in runs]
        return out + draft.before[-1]

    def _edit(self, draft: _Draft, k: int, point: Point) -> None:
        stem = f"edit.{k}"
        kind = read(Coordinate(f"{stem}.kind"), point)
        if kind == NONE:
            return
        scale = self.scales.read(f"{stem}.scale", point)
        first = self._gaps[0]
        if kind == INSERT:
            gaps = self._gaps
            many = len(gaps) > 1
            gap = int(read(Coordinate(f"{stem}.before"), point)) if many else gaps[0]
            draft.before[gap - first].append(
                replace(self._pick(k).step(point), scale=scale)
            )
            return
        at = int(read(Coordinate(f"{stem}.at"), point)) - first
        runs = draft.runs[at]
        if kind == SKIP:
            del runs[-1:]
        elif kind == REPEAT:
            runs.append(scale)
        else:
            draft.layers[at] = self._pick(k).step(point)
            runs[:1] = [scale] if runs else []
