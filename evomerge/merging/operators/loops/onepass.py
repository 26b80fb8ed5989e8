"""Merges in one pass over the inputs, by compiled code, where that is possible.

That is on the CPU, for contiguous tensors of the types it knows and thinnings that say
what they do. Elsewhere the caller takes the steps one after another; the bits are the
same.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.constants import BLOCK, CERTAIN
from evomerge.merging.operators.inputs import Cut
from evomerge.merging.operators.loops.arrays import (
    MOST_INPUTS,
    SMALL,
    Arrays,
    Part,
    arrays_of,
    can_read,
    is_plain,
    over_entries,
)
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.thinning import (
    AnyCoin,
    Coin,
    ColumnCoin,
    RankBand,
    Step,
    Steps,
    Thin,
)

_LEAST, _MOST = np.float32(-1.0), np.float32(math.inf)

Bounds = tuple[np.float32, np.float32 | None, np.float32 | None]
"""The smallest size that stays, below which size, and the factor on what stays."""
Compiled = Callable[..., int]
Numbers = tuple[np.float32, ...]


class Total(NamedTuple):
    """How inputs are added up.

    Attributes:
        factors: One per input.
        divisor: What the sum is divided by.
        scale: Factor on that.
    """

    factors: tuple[float, ...]
    divisor: float = 1.0
    scale: float = 1.0


@dataclass(frozen=True, slots=True)
class Rule:
    """How signs are elected and what becomes of those who agree.

    Attributes:
        weights: One per input.
        scale: Factor on the merged difference.
        count: One vote per input instead of the weighted sum.
        normalize: Divide by the weights that agree.
        majority: A draw takes the sign that most entries of the tensor got, instead of
            plus.
        plain: The sum that elects leaves the weights out.
    """

    weights: tuple[float, ...]
    scale: float
    count: bool = False
    normalize: bool = True
    majority: bool = False
    plain: bool = False

    @classmethod
    def of(cls, settings: Settings) -> Rule:
        """Read the knobs that methods with an election have in common."""
        return cls(
            settings.numbers("weight"),
            settings.number("lambda"),
            normalize=settings.flag("normalize"),
        )


def can_fuse(deltas: Deltas, thin: Thin | None, out: torch.Tensor) -> bool:
    """Tell whether compiled code can do this merge, and is worth it."""
    known = thin is None or (isinstance(thin, Steps) and thin.are_alike)
    fits = deltas.n >= SMALL and len(deltas) <= MOST_INPUTS
    return known and fits and can_read(deltas) and is_plain(out)


def can_sum(deltas: Deltas, thin: Thin) -> bool:
    """Tell whether compiled code can sum up what a thinning leaves."""
    known = isinstance(thin, Steps) and thin.are_alike
    return known and deltas.n >= SMALL and can_read(deltas)


def fused_sum(
    deltas: Deltas, total: Total, thin: Thin | None, out: torch.Tensor
) -> bool:
    """Write ``base + scale * sum(f_i thin(x_i - base)) / divisor`` to ``out``.

    Returns:
        Whether every number written is finite.
    """
    from evomerge.merging.kernels.sums import add, add_thinned, add_tossed

    arrays = Arrays.of(deltas, out)
    weights = _numbers(total.factors)
    # None instead of one: the compiler leaves out what is not asked for.
    divisor, scale = np.float32(total.divisor), np.float32(total.scale)
    ends = None if divisor == 1.0 else divisor, None if scale == 1.0 else scale
    if thin is None:

        def merge(part: Part, _: int) -> int:
            return int(add(part, weights, ends))

        return arrays.are_finite(merge, paired=True)
    return _Thinned(arrays, thin, weights).run(add_thinned, add_tossed, ends)


def fused_election(deltas: Deltas, thin: Thin, rule: Rule, out: torch.Tensor) -> bool:
    """Write ``base + scale * (merged agreeing differences)`` to ``out``.

    Returns:
        Whether every number written is finite.
    """
    from evomerge.merging.kernels.elections import elect, elect_tossed

    weights = rule.weights
    # None instead of what is usual: the compiler leaves out what is not asked for.
    votes = None
    if rule.plain:
        votes = _numbers([1.0] * len(weights))
    elif rule.count:
        votes = _numbers([math.copysign(1.0, w) if w else 0.0 for w in weights])
    mixed = rule.normalize and min(weights) < 0.0
    how = (rule.count or None, rule.normalize, mixed or None)
    last = (votes, *how, None if rule.scale == 1.0 else np.float32(rule.scale))
    thinned = _Thinned(Arrays.of(deltas, out), thin, _numbers(weights))
    return thinned.run(elect, elect_tossed, last)


def fused_use(
    deltas: Deltas, thin: Thin, use: tuple[float, float, float], out: torch.Tensor
) -> bool:
    """Write what TIES merges where enough inputs use it, scaled, with the base.

    Args:
        deltas: What to merge.
        thin: What each input keeps, by its size.
        use: Scale; which share of what the others add up to an input must exceed; and
            how many must.
        out: The result.

    Returns:
        Whether every difference and every number written is finite.
    """
    from evomerge.merging.kernels.elementwise import consensus_of_ties

    thinned = _Thinned(Arrays.of(deltas, out), thin, _numbers([1.0] * len(deltas)))
    return thinned.cut(consensus_of_ties, _numbers(use), paired=False)


def fused_sizes(deltas: Deltas, thin: Steps, index: int) -> tuple[float, float]:
    """Return the L1 norms of one input's difference, and of what is left of it."""
    from evomerge.merging.kernels.sums import add_sizes_cut, add_sizes_tossed

    x, origin = arrays_of(deltas, index)
    only = _Steps((thin.of[index],))
    coins = only.coins
    sums = np.zeros((-(-deltas.n // BLOCK), 2))

    def part(low: int, high: int) -> tuple[object, ...]:
        return (x[low:high],), None if origin is None else origin[low:high]

    def loop(low: int, high: int) -> int:
        mine = sums[low // BLOCK :]
        if coins:
            add_sizes_tossed(part(low, high), np.int64(low), coins, mine)
            return 0
        for start, stop in only.windows(low, high):
            places = (np.int64(low), np.int64(start))
            add_sizes_cut(part(start, stop), only.bounds(start), *places, mine)
        return 0

    over_entries(loop, deltas.n)
    # Block by block, whoever summed them: the same for any number of threads.
    whole, left = sums.sum(axis=0).tolist()
    return whole, left


class _Thinned:
    """A merge of thinned inputs, in parts in which the same is done to every entry."""

    def __init__(self, arrays: Arrays, thin: Thin, weights: Numbers) -> None:
        assert isinstance(thin, Steps)
        self._arrays = arrays
        self._steps = _Steps(thin.of)
        self._weights = weights
        self._n = len(arrays.inputs[0])

    def run(self, cut: Compiled, tossed: Compiled, last: object) -> bool:
        """Run the merge that takes cuts, or the one that tosses coins."""
        coins = self._steps.coins
        if not coins:
            return self.cut(cut, last)

        def toss(part: Part, start: int) -> int:
            return tossed(part, self._weights, np.int64(start), coins, last)

        return over_entries(
            lambda low, high: self._arrays.merge(toss, low, high, paired=False), self._n
        )

    def cut(self, cut: Compiled, last: object, *, paired: bool = True) -> bool:
        """Run a merge that takes cuts; ``paired`` if it knows pairs of bf16."""

        def keep(part: Part, start: int) -> int:
            return cut(part, self._weights, self._steps.bounds(start), (), last)

        def loop(low: int, high: int) -> bool:
            found = [
                self._arrays.merge(keep, *ends, paired=paired)
                for ends in self._steps.windows(low, high)
            ]
            return any(found)

        return over_entries(loop, self._n)


@dataclass(frozen=True, slots=True)
class _Steps:
    """Steps as compiled code knows them."""

    of: Sequence[Step]

    @property
    def coins(self) -> tuple[tuple[object, ...], ...]:
        """What is tossed for each input; empty if nothing is tossed at all."""
        if all(step.coin is None for step in self.of):
            return ()
        return tuple(_coin(step.coin, step.factor) for step in self.of)

    def windows(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Cut a range where the last tie of an input's threshold stands."""
        cuts = [cut for step in self.of for cut in (step.cut, step.top) if cut]
        edges = {cut.last + 1 for cut in cuts if low < cut.last + 1 < high}
        return pairwise(sorted({low, high, *edges}))

    def bounds(self, start: int) -> tuple[Bounds, ...]:
        """Return what sizes stay of each input from a place on, and the factor.

        None for any size and for no factor if that is so for every input: nothing is
        compiled for what is not asked for.
        """
        topped = any(step.top for step in self.of)
        grown = topped or any(step.factor != 1.0 for step in self.of)
        out = []
        for step in self.of:
            low = _LEAST if step.cut is None else _edge(step.cut, start)
            high = _MOST if step.top is None else _edge(step.top, start)
            factor = np.float32(step.factor)
            out.append((low, high if topped else None, factor if grown else None))
        return tuple(out)


def _edge(cut: Cut, start: int) -> np.float32:
    """Return the smallest size that a cut keeps of the entries from a place on."""
    threshold = np.float32(cut.threshold)
    return threshold if start <= cut.last else np.nextafter(threshold, _MOST)


def _coin(coin: AnyCoin | None, factor: float) -> tuple[object, ...]:
    """Return a coin as compiled code knows it, with the factor on what stays."""
    worth = np.float32(factor)
    if coin is None:
        return (worth,)
    if isinstance(coin, ColumnCoin):
        return (coin.mask.numpy() * worth,)
    if isinstance(coin, RankBand):
        return coin.ranks.numpy(), np.int32(coin.low), np.int32(coin.high), worth
    key = np.uint64(coin.key)
    assert not getattr(coin, "inverse", False) or factor == 1.0
    if isinstance(coin, Coin):
        return key, np.uint32(coin.share - 1), worth
    # More ranks than 16 bits hold are more than fp32 tells apart.
    number = np.float32 if coin.ranks.dtype == torch.uint16 else np.float64
    step, least = number(coin.step * CERTAIN), number(coin.least * CERTAIN)
    return key, coin.ranks.numpy(), step, least, None if coin.inverse else worth


def _numbers(values: Sequence[float]) -> Numbers:
    return tuple(np.float32(value) for value in values)
