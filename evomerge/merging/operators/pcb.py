"""PCB-Merging (Du et al. 2024, 2410.02396): entries compete for their weight.

Within an input large differences win; between inputs those win that the others agree
with. Every entry is averaged by what its inputs won.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache, partial

import torch

from evomerge.core.operators.selected import BEST
from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.combine import check_finite, stacks
from evomerge.merging.operators.memo import NOTHING_KEPT, Known, Memo
from evomerge.merging.operators.order import in_blocks, values_at
from evomerge.merging.operators.scale import drawn_from
from evomerge.merging.operators.sizes import magnitude
from evomerge.merging.operators.sparsify import whole

_FEW = 2
"""Up to this many places are looked for one by one."""
_NO_WEIGHT = 1e-12
"""Weights of an entry are divided by this at least."""


def pcb(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
    memo: Memo = NOTHING_KEPT,
) -> torch.Tensor:
    """Average every entry by the weights that its differences win in competition."""
    deltas = Deltas(tensors, base, known=Known(memo, settings.operation, key))
    out = deltas.fresh()
    if deltas.n == 0:
        return out
    contest = _Contest(settings, deltas)
    ranges = contest.ranges()
    into = out.view(-1)
    factors = settings.numbers("weight")
    for block, start, read in stacks(deltas):
        check_finite(read, key)
        won = [
            ranges[index].part(contest.score(index, block).clone())
            for index in range(len(read))
        ]
        part, under = into[block].zero_(), torch.zeros_like(won[0])
        for index, (delta, weight) in enumerate(zip(read, won, strict=True)):
            contest.clip(index, delta).mul_(factors[index])
            part.add_(delta.mul_(weight))
            under.add_(weight)
        part.div_(under.clamp_min_(_NO_WEIGHT))
        if start is not None:
            part.add_(start)
    return out


@dataclass(frozen=True, slots=True)
class _Range:
    """From where to where numbers run; what lies outside counts as the end."""

    low: float
    high: float

    def part(self, values: torch.Tensor) -> torch.Tensor:
        """Map the range to [0, 1], in place; to zero if it is a point."""
        width = self.high - self.low
        if width <= 0.0:
            return values.zero_()
        return values.clamp_(self.low, self.high).sub_(self.low).div_(width)


def _place(part: float, n: int) -> int:
    """Return where the best part of so many scores begins, in ascending order."""
    return min(whole((1.0 - part) * n), n - 1)


@lru_cache(maxsize=1)
def _scale() -> tuple[float, ...]:
    """Return the parts that a search over the usual range draws, and hundredths."""
    return drawn_from(BEST)


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
            _Range(*deltas.recall(f"ends {clip}", (index,), partial(self._ends, index)))
            for index in range(len(deltas))
        ]
        self._own, self._other, self._sum = (deltas.scratch() for _ in range(3))

    def clip(self, index: int, delta: torch.Tensor) -> torch.Tensor:
        """Bring the sizes of an input's differences into their range, in place."""
        size = self._sizes[index]
        sign = delta.sign()
        return delta.abs_().clamp_(size.low, size.high).mul_(sign)

    def ranges(self) -> list[_Range]:
        """Return from where to where the best part of each input's scores runs.

        In a search the places of all parts on the scale are looked up together, once
        for the inputs and a base.
        """
        n = self._deltas.n
        place = _place(self._part, n)
        usual = {_place(part, n) for part in _scale()} if self._deltas.is_known else ()
        kind = f"{'each' if self._pairwise else 'sum'} {self._clip}"
        table = self._table(f"scores {kind}", {n - 1, *usual}) if usual else None
        if table is None or place not in table[0]:  # not on the scale
            table = self._table(f"a score {kind} {place}", {n - 1, place})
        places, scores = table
        at = int(torch.searchsorted(places, place))
        # Plus zero, because either zero may stand there.
        return [_Range(float(row[at]) + 0.0, float(row[-1]) + 0.0) for row in scores]

    def _table(self, kind: str, places: set[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Return places, ascending, and each input's scores there, a row each."""
        everything = range(len(self._deltas))
        wanted = sorted(places)
        return self._deltas.recall(
            kind,
            everything,
            lambda: (
                torch.tensor(wanted),
                torch.stack([self._scores_at(index, wanted) for index in everything]),
            ),
        )

    def _scores_at(self, index: int, places: Sequence[int]) -> torch.Tensor:
        """Return an input's scores at some places of their order, fp32."""

        def score(block: slice) -> torch.Tensor:
            return self.score(index, block)

        if len(places) <= _FEW:
            scores = in_blocks(self._deltas, score)
            return torch.tensor(values_at(self._deltas, scores, places, signed=True))
        whole = self._deltas.scratch(self._deltas.n)
        for block in self._deltas.blocks():
            whole[block] = score(block)
        return _sorted(whole)[list(places)].cpu()

    def _ends(self, index: int) -> tuple[float, ...]:
        """Return the sizes that an input's differences are brought between."""
        ends = (self._clip, 1.0 - self._clip)
        places = [int(share * (self._deltas.n - 1)) for share in ends]
        return tuple(values_at(self._deltas, magnitude(self._deltas, index), places))

    def score(self, index: int, block: slice) -> torch.Tensor:
        """Return a block of an input's scores: within itself, and between inputs."""
        base = self._deltas.base(block)
        own = self._deltas.read(index, block, base, self._own)
        inter = self._sum[: len(own)].zero_()
        for other in range(len(self._deltas)):
            theirs = self._deltas.read(other, block, base, self._other)
            if self._pairwise:
                theirs = self._normal(other, theirs).mul_(self._normal(index, own))
                theirs.tanh_()
            inter.add_(theirs)
        if not self._pairwise:
            inter.mul_(own).tanh_()
        within = self._sizes[index].part(own.abs_()).square_()
        return within.mul_(len(self._deltas)).exp_().mul_(inter)

    def _normal(self, index: int, delta: torch.Tensor) -> torch.Tensor:
        """Return differences by size from 0 to 1, with their signs; fresh."""
        return self._sizes[index].part(delta.abs()).mul_(delta.sign())
