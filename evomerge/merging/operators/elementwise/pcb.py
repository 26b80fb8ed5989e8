"""PCB-Merging (Du et al. 2024, 2410.02396): entries compete for their weight.

Within an input large differences win; between inputs those win that the others agree
with. Every entry is averaged by what its inputs won.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from evomerge.core.operators.derived import MAGNITUDE_ENDS, ONE_SCORE, SCORES, Derived
from evomerge.core.operators.selected import BEST
from evomerge.core.recipes.settings import Settings
from evomerge.merging.constants import NO_WEIGHT
from evomerge.merging.elementary import exp_, tanh_, tanh_of_part_
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import Arrays, Part, arrays_of, can_count
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.lazy_merge import Combined
from evomerge.merging.operators.loops.order_statistics import in_blocks, values_at
from evomerge.merging.operators.thresholds.magnitude_thresholds import magnitude
from evomerge.merging.operators.thresholds.sparsify import drawn_from, whole

_FEW = 2
"""Up to this many places are looked for one by one."""
_MOST = 88.0
"""Exponentials of more are no fp32 numbers; it takes as many inputs."""
_NO_WIDTH = 1e-37
"""A range of less is a point: nothing is divided by it."""
_FAINT, _LARGE = 1e-30, 1e38
"""Between them rounding is relative."""
_SURE = 0.99
"""All roundings of a score and of a bound on it come to less than the rest of one."""

Ends = tuple[np.float32, np.float32, np.float32]
"""A range as compiled code knows it: low, high, and one over the width."""


def pcb(inputs: Inputs) -> torch.Tensor | Combined:
    """Average every entry by the weights that its differences win in competition."""
    deltas = Deltas.of(inputs)
    if deltas.n == 0:
        return deltas.fresh()
    contest = _Contest(inputs.settings, deltas)
    ranges = contest.ranges()
    factors = inputs.settings.numbers("weight")
    return Combined(
        deltas,
        1.0,
        partial(contest.merge, ranges, factors),
        partial(contest.one_pass, ranges, factors),
        inputs.key,
    )


@dataclass(frozen=True, slots=True)
class _Range:
    """From where to where numbers run; what lies outside counts as the end."""

    low: float
    high: float

    @property
    def factor(self) -> float:
        """One over the width; zero if it is a point."""
        width = self.high - self.low
        return 1.0 / width if width > _NO_WIDTH else 0.0

    def part(self, values: torch.Tensor) -> torch.Tensor:
        """Map the range to [0, 1], in place; to zero if it is a point."""
        return values.clamp_(self.low, self.high).sub_(self.low).mul_(self.factor)

    @property
    def edge(self) -> np.float32:
        """What a bound on a score that counts is above, whatever is rounded."""
        if self.factor == 0.0:
            return np.float32(np.inf)
        return np.float32(self.low * _SURE if self.low > _FAINT else -1.0)

    @property
    def ends(self) -> Ends:
        """The range as compiled code knows it."""
        return np.float32(self.low), np.float32(self.high), np.float32(self.factor)


def _place(part: float, n: int) -> int:
    """Return where the best part of so many scores begins, in ascending order."""
    return min(whole((1.0 - part) * n), n - 1)


def _usual_places(n: int) -> list[int]:
    """Return where the parts begin that a search over the usual range draws."""
    return sorted({n - 1, *(_place(part, n) for part in drawn_from(BEST))})


def _sorted(values: torch.Tensor) -> torch.Tensor:
    """Return fp32 numbers in ascending order, in their place."""
    if values.device.type == "cpu":
        values.numpy().sort()  # several times faster than torch's
        return values
    return values.sort().values


class _Contest:
    """How well every entry of every input does."""

    def __init__(self, settings: Settings, deltas: Deltas) -> None:
        self._deltas = deltas
        self._part = settings.number("r")
        self._pairwise = settings.choice("inter") == "pairwise"
        self._clip = clip = settings.number("clip")
        self._sizes = [
            _Range(
                *deltas.recall(
                    MAGNITUDE_ENDS.at(clip), (index,), partial(self._ends, index)
                )
            )
            for index in range(len(deltas))
        ]
        self._spaces = [deltas.scratch() for _ in range(len(deltas))]

    def merge(
        self,
        ranges: Sequence[_Range],
        factors: Sequence[float],
        read: list[torch.Tensor],
    ) -> torch.Tensor:
        """Merge a block of every input's differences, which may be changed.

        Args:
            ranges: Of each input, from where to where the scores run that count.
            factors: On each input's differences.
            read: The block.
        """
        won = [
            ranges[index].part(self._scores(index, read)) for index in range(len(read))
        ]
        merged, under = torch.zeros_like(read[0]), torch.zeros_like(read[0])
        for index, (delta, weight) in enumerate(zip(read, won, strict=True)):
            size, sign = self._sizes[index], delta.sign()
            clipped = delta.abs_().clamp_(size.low, size.high).mul_(sign)
            merged.add_(clipped.mul_(factors[index]).mul_(weight))
            under.add_(weight)
        return merged.div_(under.clamp_min_(NO_WEIGHT))

    def one_pass(
        self, ranges: Sequence[_Range], factors: Sequence[float], part: Part
    ) -> int:
        """Do the same for a part of all tensors, in compiled code."""
        from evomerge.merging.kernels.competition import compete

        scores = tuple(one.ends for one in ranges)
        weights = tuple(np.float32(factor) for factor in factors)
        how = self._edges(ranges, factors), self._kind
        return int(compete(part, self._ends_of_sizes, scores, weights, how))

    def _edges(
        self, ranges: Sequence[_Range], factors: Sequence[float]
    ) -> tuple[np.float32, ...]:
        """Return what a bound on a score is above wherever it wins a weight."""
        grown = max(
            abs(factor) * size.high
            for factor, size in zip(factors, self._sizes, strict=True)
        )
        if grown > _LARGE:  # what wins nothing may still be infinite
            return (np.float32(-1.0),) * len(ranges)
        return tuple(one.edge for one in ranges)

    @property
    def _ends_of_sizes(self) -> tuple[Ends, ...]:
        return tuple(size.ends for size in self._sizes)

    @property
    def _kind(self) -> bool | None:
        """How inputs compete, as compiled code knows it."""
        return True if self._pairwise else None

    def ranges(self) -> list[_Range]:
        """Return from where to where the best part of each input's scores runs.

        In a search the places of all parts on the scale are looked up together, once
        for the inputs and a base.
        """
        n = self._deltas.n
        place = _place(self._part, n)
        how = self._pairwise, self._clip
        table = None
        if self._deltas.is_known:
            table = self._table(SCORES.at(*how), lambda: _usual_places(n))
        if table is None or place not in table[0]:  # not on the scale
            table = self._table(ONE_SCORE.at(*how, place), lambda: [place, n - 1])
        places, scores = table
        at = int(torch.searchsorted(places, place))
        # Plus zero, because either zero may stand there.
        return [_Range(float(row[at]) + 0.0, float(row[-1]) + 0.0) for row in scores]

    def _table(
        self, kind: Derived, places: Callable[[], list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return places, ascending, and each input's scores there, a row each."""
        everything = range(len(self._deltas))

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            wanted = places()
            rows = [self._scores_at(index, wanted) for index in everything]
            return torch.tensor(wanted), torch.stack(rows)

        return self._deltas.recall(kind, everything, compute)

    def _scores_at(self, index: int, places: Sequence[int]) -> torch.Tensor:
        """Return an input's scores at some places of their order, fp32."""

        def score(block: slice) -> torch.Tensor:
            base = self._deltas.base(block)
            read = [
                self._deltas.read(other, block, base, space)
                for other, space in enumerate(self._spaces)
            ]
            return self._scores(index, read)

        if len(places) <= _FEW:
            scores = in_blocks(self._deltas, score)
            return torch.tensor(values_at(self._deltas, scores, places, signed=True))
        whole = self._deltas.scratch(self._deltas.n)
        if can_count(self._deltas):
            self._write_scores(index, whole)
        else:
            for block in self._deltas.blocks():
                whole[block] = score(block)
        return _sorted(whole)[list(places)].cpu()

    def _write_scores(self, index: int, out: torch.Tensor) -> None:
        """Write an input's scores, in compiled code."""
        from evomerge.merging.kernels.competition import scores

        sizes, kind, whole = self._ends_of_sizes, self._kind, out.numpy()
        own, _ = arrays_of(self._deltas, index)

        def work(part: Part, start: int) -> None:
            stop = start + len(part[0][0])
            mine = own[start:stop], sizes[index]
            scores(part[:2], sizes, mine, kind, whole[start:stop])

        Arrays.of(self._deltas).each(work)

    def _ends(self, index: int) -> tuple[float, ...]:
        """Return the sizes that an input's differences are brought between."""
        ends = (self._clip, 1.0 - self._clip)
        places = [int(share * (self._deltas.n - 1)) for share in ends]
        return tuple(values_at(self._deltas, magnitude(self._deltas, index), places))

    def _scores(self, index: int, read: Sequence[torch.Tensor]) -> torch.Tensor:
        """Return an input's scores: within itself, and between inputs; fresh."""
        inter = torch.zeros_like(read[0])
        if self._pairwise:
            own = self._normal(index, read[index])
            for other, theirs in enumerate(read):
                inter.add_(tanh_of_part_(self._normal(other, theirs).mul_(own)))
        else:
            for theirs in read:
                inter.add_(theirs)
            tanh_(inter.mul_(read[index]))
        within = self._sizes[index].part(read[index].abs()).square_()
        return exp_(within.mul_(len(read)).clamp_max_(_MOST)).mul_(inter)

    def _normal(self, index: int, delta: torch.Tensor) -> torch.Tensor:
        """Return differences by size from 0 to 1, with their signs; fresh."""
        return self._sizes[index].part(delta.abs()).mul_(delta.sign())
