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
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.forms import Ballot, Total
from evomerge.merging.operators.order import Cut
from evomerge.merging.operators.parts import BLOCK, SMALL, over_entries
from evomerge.merging.operators.thinning import Coin, RankedCoin, Step, Steps, Thin

_MOST_INPUTS = 8
"""Code is compiled for each number of inputs; with more of them it is not worth it."""
_WORDS = {torch.float32: None, torch.bfloat16: torch.uint16, torch.float16: torch.int16}
"""Element type to the words it is seen as; compiled code goes by these."""
_CERTAIN = 2.0**24
"""What is certain, in the units that chances by rank are counted in."""
_LEAST, _MOST = np.float32(-1.0), np.float32(math.inf)

Array = npt.NDArray[Any]
Bounds = tuple[np.float32, np.float32 | None, np.float32 | None]
"""The smallest size that stays, below which size, and the factor on what stays."""
Merge = Callable[..., int]
Numbers = tuple[np.float32, ...]


def can_fuse(deltas: Deltas, thin: Thin | None, out: torch.Tensor) -> bool:
    """Tell whether compiled code can do this merge, and is worth it."""
    known = thin is None or (isinstance(thin, Steps) and thin.are_alike)
    fits = deltas.n >= SMALL and len(deltas) <= _MOST_INPUTS
    return known and fits and can_read(deltas) and _is_plain(out)


def can_sum(deltas: Deltas, thin: Thin) -> bool:
    """Tell whether compiled code can sum up what a thinning leaves."""
    known = isinstance(thin, Steps) and thin.are_alike
    return known and deltas.n >= SMALL and can_read(deltas)


def can_read(deltas: Deltas) -> bool:
    """Tell whether compiled code can read these tensors."""
    return all(_is_plain(tensor) for tensor in deltas.sources())


def _is_plain(tensor: torch.Tensor) -> bool:
    known = tensor.device.type == "cpu" and tensor.dtype in _WORDS
    return known and tensor.is_contiguous()


def as_array(tensor: torch.Tensor) -> Array:
    """Return a tensor's flat memory as compiled code knows it."""
    words = _WORDS[tensor.dtype]
    flat = tensor.view(-1)
    return (flat if words is None else flat.view(words)).numpy()


def fused_sum(
    deltas: Deltas, total: Total, thin: Thin | None, out: torch.Tensor
) -> bool:
    """Write ``base + scale * sum(f_i thin(x_i - base)) / divisor`` to ``out``.

    Returns:
        Whether every number written is finite.
    """
    from evomerge.merging.kernels.merges import add, add_thinned, add_tossed

    job = _Job.of(deltas, out)
    weights = _numbers(total.factors)
    # None instead of one: the compiler leaves out what is not asked for.
    divisor, scale = np.float32(total.divisor), np.float32(total.scale)
    ends = None if divisor == 1.0 else divisor, None if scale == 1.0 else scale
    if thin is None:
        return over_entries(
            lambda low, high: job.run(add, low, high, weights, ends), deltas.n
        )
    return _Thinned(job, thin, weights).run(add_thinned, add_tossed, ends)


def fused_election(
    deltas: Deltas, thin: Thin, ballot: Ballot, out: torch.Tensor
) -> bool:
    """Write ``base + scale * (merged agreeing differences)`` to ``out``.

    Returns:
        Whether every number written is finite.
    """
    from evomerge.merging.kernels.merges import elect, elect_tossed

    job = _Job.of(deltas, out)
    weights = ballot.weights
    # None instead of what is usual: the compiler leaves out what is not asked for.
    votes = None
    if ballot.plain:
        votes = _numbers([1.0] * len(weights))
    elif ballot.count:
        votes = _numbers([math.copysign(1.0, w) if w else 0.0 for w in weights])
    mixed = ballot.normalize and min(weights) < 0.0
    rule = (ballot.count or None, ballot.normalize, mixed or None)
    last = (votes, *rule, np.float32(ballot.scale))
    thinned = _Thinned(job, thin, _numbers(weights))
    return thinned.run(elect, elect_tossed, last)


def fused_sizes(deltas: Deltas, thin: Steps, index: int) -> tuple[float, float]:
    """Return the L1 norms of one input's difference, and of what is left of it."""
    from evomerge.merging.kernels.norms import add_sizes_cut, add_sizes_tossed

    x, base = as_array(deltas.tensors()[index]), deltas.start()
    origin = None if base is None else as_array(base)
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


class _Job:
    """The arrays of one merge."""

    def __init__(self, inputs: list[Array], base: Array | None, out: Array) -> None:
        from evomerge.merging.kernels.numbers import overflow

        self._inputs = inputs
        self._base = base
        self._out = out
        self._limit = overflow(out.dtype)
        self.n = len(out)

    @classmethod
    def of(cls, deltas: Deltas, out: torch.Tensor) -> _Job:
        start = deltas.start()
        return cls(
            [as_array(tensor) for tensor in deltas.tensors()],
            None if start is None else as_array(start),
            as_array(out),
        )

    def run(self, merge: Merge, low: int, high: int, *given: object) -> bool:
        """Merge the entries from one place to another; tell if any is not finite."""
        part = slice(low, high)
        inputs = tuple(array[part] for array in self._inputs)
        base = None if self._base is None else self._base[part]
        most = merge((inputs, base, self._out[part]), *given)
        return bool(most >= self._limit)


class _Thinned:
    """A merge of thinned inputs, in parts in which the same is done to every entry."""

    def __init__(self, job: _Job, thin: Thin, weights: Numbers) -> None:
        assert isinstance(thin, Steps)
        self._job = job
        self._steps = _Steps(thin.of)
        self._weights = weights

    def run(self, cut: Merge, tossed: Merge, *given: object) -> bool:
        """Run the merge that takes cuts, or the one that tosses coins."""
        steps, coins = self._steps, self._steps.coins

        def toss(low: int, high: int) -> bool:
            how = (self._weights, np.int64(low), coins)
            return self._job.run(tossed, low, high, *how, *given)

        def loop(low: int, high: int) -> bool:
            bad = False
            for start, stop in steps.windows(low, high):
                how = (self._weights, steps.bounds(start), ())
                bad |= self._job.run(cut, start, stop, *how, *given)
            return bad

        return over_entries(toss if coins else loop, self._job.n)


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


def _coin(coin: Coin | RankedCoin | None, factor: float) -> tuple[object, ...]:
    """Return a coin as compiled code knows it, with the factor on what stays."""
    worth = np.float32(factor)
    if coin is None:
        return (worth,)
    key = np.uint64(coin.key)
    assert not getattr(coin, "inverse", False) or factor == 1.0
    if isinstance(coin, Coin):
        return key, np.uint32(coin.share - 1), worth
    step, least = np.float32(coin.step * _CERTAIN), np.float32(coin.least * _CERTAIN)
    return key, coin.ranks.numpy(), step, least, None if coin.inverse else worth


def _numbers(values: Sequence[float]) -> Numbers:
    return tuple(np.float32(value) for value in values)


def arrays(deltas: Deltas, index: int) -> tuple[Array, Array | None]:
    """Return an input and the base as compiled code sees them, flat."""
    start = deltas.start()
    return as_array(deltas.tensors()[index]), None if start is None else as_array(start)
