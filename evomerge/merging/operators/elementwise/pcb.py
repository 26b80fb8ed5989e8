"""PCB-Merging (Du et al. 2024, 2410.02396): entries compete for their weight.

Within an input large differences win; between inputs those win that the others agree
with. Every entry is averaged by what its inputs won.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from evomerge.core.operators.derived import MAGNITUDE_ENDS, ONE_SCORE, SCORES, Derived
from evomerge.core.operators.selected import BEST
from evomerge.merging.form import Contest, Form, Range
from evomerge.merging.operators.executors.formulas import scores
from evomerge.merging.operators.executors.merge import LazyMerge
from evomerge.merging.operators.executors.processor import write_scores
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.arrays import can_count
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.order_statistics import in_blocks, values_at
from evomerge.merging.operators.thresholds.magnitude_thresholds import magnitude
from evomerge.merging.operators.thresholds.sparsify import drawn_from, whole

_FEW = 2
"""Up to this many places are looked for one by one."""
_NO_WIDTH = 1e-37
"""A range of less is a point: nothing is divided by it."""


def pcb(inputs: Inputs) -> LazyMerge:
    """Average every entry by the weights that its differences win in competition."""
    settings, deltas = inputs.settings, Deltas.of(inputs)
    weights, pairwise = settings.numbers("weight"), settings.choice("inter")
    contest = Contest((), (), weights, pairwise=pairwise == "pairwise")
    if deltas.n:
        clip = settings.number("clip")
        sizes = tuple(_sizes(deltas, index, clip) for index in range(len(deltas)))
        contest = contest._replace(sizes=sizes)
        found = _Scores(deltas, contest, clip).ranges(settings.number("r"))
        contest = contest._replace(scores=found)
    return LazyMerge(deltas, Form(contest, checked=True), inputs.key)


def _range(low: float, high: float) -> Range:
    width = high - low
    return Range(low, high, 1.0 / width if width > _NO_WIDTH else 0.0)


def _sizes(deltas: Deltas, index: int, clip: float) -> Range:
    """Return the range that the sizes of an input's differences are brought to."""

    def compute() -> tuple[float, ...]:
        places = [int(share * (deltas.n - 1)) for share in (clip, 1.0 - clip)]
        return tuple(values_at(deltas, magnitude(deltas, index), places))

    low, high = deltas.recall(MAGNITUDE_ENDS.at(clip), (index,), compute)
    return _range(low, high)


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


@dataclass(frozen=True, slots=True)
class _Scores:
    """How well every entry of every input does, in order.

    Attributes:
        contest: What the sizes of differences are brought to.
        clip: How that was found.
    """

    deltas: Deltas
    contest: Contest
    clip: float

    def ranges(self, part: float) -> tuple[Range, ...]:
        """Return from where to where the best part of each input's scores runs.

        In a search the places of all parts on the scale are looked up together, once
        for the inputs and a base.
        """
        n = self.deltas.n
        place = _place(part, n)
        how = self.contest.pairwise, self.clip
        table = None
        if self.deltas.is_known:
            table = self._table(SCORES.at(*how), lambda: _usual_places(n))
        if table is None or place not in table[0]:  # not on the scale
            table = self._table(ONE_SCORE.at(*how, place), lambda: [place, n - 1])
        places, rows = table
        at = int(torch.searchsorted(places, place))
        # Plus zero, because either zero may stand there.
        return tuple(_range(float(r[at]) + 0.0, float(r[-1]) + 0.0) for r in rows)

    def _table(
        self, kind: Derived, places: Callable[[], list[int]]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Return places, ascending, and each input's scores there, a row each."""
        everything = range(len(self.deltas))

        def compute() -> tuple[torch.Tensor, torch.Tensor]:
            wanted = places()
            rows = [self._scores_at(index, wanted) for index in everything]
            return torch.tensor(wanted), torch.stack(rows)

        return self.deltas.recall(kind, everything, compute)

    def _scores_at(self, index: int, places: Sequence[int]) -> torch.Tensor:
        """Return an input's scores at some places of their order, fp32."""
        deltas = self.deltas
        spaces = [deltas.scratch() for _ in range(len(deltas))]

        def score(block: slice) -> torch.Tensor:
            read = partial(deltas.read, block=block, base=deltas.base(block))
            values = [read(other, out=space) for other, space in enumerate(spaces)]
            return scores(self.contest, index, values)

        if len(places) <= _FEW:
            found = in_blocks(deltas, score)
            return torch.tensor(values_at(deltas, found, places, signed=True))
        whole = deltas.scratch(deltas.n)
        if can_count(deltas):
            write_scores(deltas, self.contest, index, whole)
        else:
            for block in deltas.blocks():
                whole[block] = score(block)
        return _sorted(whole)[list(places)].cpu()
