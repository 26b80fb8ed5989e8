"""Forms carried out in one pass over the inputs, by code compiled for the CPU.

That is for contiguous tensors of the types it knows. Two kinds of value are left to
single steps: means by information, whose powers are torch's own, and ranks in rows too
long for them to be kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import torch

from evomerge.merging.constants import BLOCK, CERTAIN
from evomerge.merging.form import (
    Coin,
    Contest,
    Cut,
    Form,
    Given,
    Informed,
    Outstanding,
    Range,
    RankBand,
    RankedCoin,
    SizeCoin,
    Step,
    Used,
    Varied,
    mapped,
)
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

_LEAST, _MOST = np.float32(-1.0), np.float32(math.inf)
_FAINT = 1e-30
"""Squares in fp32 may vanish where their sums are below this."""
_LARGE = 1e38
"""Up to this what is weighted is finite."""
_BEYOND = 2.0**128
"""What infinity is to the rounding of fp64 to fp32: the number after the largest."""
_SURE = 0.99
"""All roundings of a score and of a bound on it come to less than the rest of one."""

Bounds = tuple[np.float32, np.float32, np.float32]
Thin = Any
"""What thins inputs, as ``kernels.entries`` knows it."""


def can(deltas: Deltas, form: Form, out: torch.Tensor) -> bool:
    """Tell whether compiled code can do this merge, and is worth it."""
    fits = deltas.n >= SMALL and len(deltas) <= MOST_INPUTS
    if not fits or isinstance(form.reduce, Informed):
        return False
    whole = form.among is None or form.thin is None
    return whole and _are_known(form.thin) and can_read(deltas) and is_plain(out)


def can_sum(deltas: Deltas, step: Step) -> bool:
    """Tell whether compiled code can sum up what a step leaves."""
    return deltas.n >= SMALL and _are_known((step,)) and can_read(deltas)


def _are_known(thin: Sequence[Step] | None) -> bool:
    """Tell whether entries go by size or by coins, not both, and each is known."""
    steps = thin or ()
    by_size = any(step.cut or step.top for step in steps)
    coins = [step for step in steps if step.coin]
    return not (by_size and coins) and all(map(_is_known, coins))


def _is_known(step: Step) -> bool:
    coin = step.coin
    is_divided = isinstance(coin, Given) or getattr(coin, "inverse", False)
    if is_divided and step.factor != 1.0:  # rounded once more
        return False
    return not isinstance(coin, RankBand | RankedCoin) or coin.ranks is not None


def write(deltas: Deltas, form: Form, key: str, out: torch.Tensor) -> bool:
    """Merge.

    Args:
        deltas: What is merged.
        form: How.
        key: Name of the tensor; nothing is said of it here.
        out: The result.

    Returns:
        Whether everything that was written is finite, and every difference that the
        form looks at.
    """
    arrays = Arrays.of(deltas, out)
    if isinstance(form.reduce, Contest):
        return _compete(arrays, form.reduce)
    how = (*map(_numbers, (form.reduce, form.use)), _unless_one(form.scale))
    last = (*how, _number(form.checked), _number(form.bare))
    match form.among:
        case Varied():
            return _merge_varied(arrays, form.among, last)
        case Used():
            return _merge_all(arrays, _numbers(form.among), last)
        case Outstanding():
            return _merge_rows(arrays, form.among, last)
    if form.thin is None:
        return _merge_all(arrays, None, last)
    steps = Thinning(form.thin)
    return (
        _merge_drawn(arrays, steps.coins, last)
        if steps.coins
        else _merge_cut(arrays, steps, last)
    )


def _merge_all(arrays: Arrays, thin: Thin, last: object) -> bool:
    from evomerge.merging.kernels.merge import merge

    def work(part: Part, _: int) -> int:
        return int(merge(part, thin, last))

    return arrays.are_finite(work, paired=True)


def _merge_drawn(arrays: Arrays, coins: Thin, last: object) -> bool:
    from evomerge.merging.kernels.merge import merge_drawn

    def work(part: Part, start: int) -> int:
        return int(merge_drawn(part, np.int64(start), coins, last))

    return arrays.are_finite(work)


def _merge_cut(arrays: Arrays, steps: Thinning, last: object) -> bool:
    from evomerge.merging.kernels.merge import merge

    def work(part: Part, start: int) -> int:
        return int(merge(part, steps.bounds(start), last))

    def loop(low: int, high: int) -> bool:
        windows = steps.windows(low, high)
        found = [arrays.merge(work, *ends, paired=True) for ends in windows]
        return any(found)

    return over_entries(loop, len(arrays.inputs[0]))


def _merge_varied(arrays: Arrays, varied: Varied, last: object) -> bool:
    from evomerge.merging.kernels.merge import merge_varied

    split = varied.cut.last + 1
    first, others = _edges(varied, len(arrays.inputs))

    def work(part: Part, low: int) -> int:
        where = first if low < split else others
        return int(merge_varied(part, *where, last))

    return arrays.are_finite(work, split, paired=True)


def _merge_rows(arrays: Arrays, outstanding: Outstanding, last: object) -> bool:
    from evomerge.merging.kernels.merge import merge_rows

    factor, threshold = _numbers(outstanding)

    def work(part: Part, start: int) -> int:
        return int(merge_rows(part, np.int64(start), factor, threshold, last))

    return arrays.are_finite(work)


def _compete(arrays: Arrays, contest: Contest) -> bool:
    """Let inputs compete.

    In a loop of its own: few entries win anything, so most of them need not compete.
    """
    from evomerge.merging.kernels.competition import compete

    scores, weights = contest.scores, contest.weights
    grown = max(
        abs(weight) * size.high
        for weight, size in zip(weights, contest.sizes, strict=True)
    )
    # Where what wins nothing may still be infinite, all must compete.
    edges = tuple(_LEAST if grown > _LARGE else _edge_of(one) for one in scores)
    how = (*map(_numbers, (contest.sizes, scores, weights)), edges)
    pairwise = _number(contest.pairwise)

    def work(part: Part, _: int) -> int:
        return int(compete(part, how, pairwise))

    return arrays.are_finite(work)


def write_scores(
    deltas: Deltas, contest: Contest, index: int, out: torch.Tensor
) -> None:
    """Write an input's scores in a contest, fp32."""
    from evomerge.merging.kernels.competition import scores

    sizes, pairwise = _numbers(contest.sizes), _number(contest.pairwise)
    own, _ = arrays_of(deltas, index)
    whole = out.numpy()

    def work(part: Part, start: int) -> None:
        stop = start + len(part[0][0])
        mine = own[start:stop], sizes[index]
        scores(part[:2], sizes, mine, pairwise, whole[start:stop])

    Arrays.of(deltas).each(work)


def _edge_of(ends: Range) -> np.float32:
    """Return what a bound on a score that counts is above, whatever is rounded."""
    if ends.factor == 0.0:
        return _MOST
    return np.float32(ends.low * _SURE) if ends.low > _FAINT else _LEAST


def sizes(deltas: Deltas, step: Step, index: int) -> tuple[float, float]:
    """Return the L1 norms of one input's difference, and of what is left of it."""
    from evomerge.merging.kernels.merge import add_sizes_cut, add_sizes_drawn

    x, origin = arrays_of(deltas, index)
    only = Thinning((step,))
    coins = only.coins
    sums = np.zeros((-(-deltas.n // BLOCK), 2))

    def part(low: int, high: int) -> tuple[object, ...]:
        return (x[low:high],), None if origin is None else origin[low:high]

    def loop(low: int, high: int) -> int:
        mine = sums[low // BLOCK :]
        if coins:
            add_sizes_drawn(part(low, high), np.int64(low), coins, mine)
            return 0
        for start, stop in only.windows(low, high):
            places = (np.int64(low), np.int64(start))
            add_sizes_cut(part(start, stop), only.bounds(start), *places, mine)
        return 0

    over_entries(loop, deltas.n)
    # Block by block, whoever summed them: the same for any number of threads.
    whole, rest = sums.sum(axis=0).tolist()
    return whole, rest


@dataclass(frozen=True, slots=True)
class Thinning:
    """Steps as compiled code knows them."""

    of: Sequence[Step]

    @property
    def coins(self) -> tuple[tuple[object, np.float32], ...]:
        """What is tossed for each input; empty if nothing is tossed at all."""
        if all(step.coin is None for step in self.of):
            return ()
        return tuple((_coin(step.coin), np.float32(step.factor)) for step in self.of)

    def windows(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Cut a range where the last tie of an input's threshold stands."""
        cuts = [cut for step in self.of for cut in (step.cut, step.top) if cut]
        edges = {cut.last + 1 for cut in cuts if low < cut.last + 1 < high}
        return pairwise(sorted({low, high, *edges}))

    def bounds(self, start: int) -> Thin:
        """Return what sizes stay of each input from a place on, and the factor.

        None for any size and for no factor if that is so for every input: nothing is
        compiled for what is not asked for.
        """
        topped = any(step.top for step in self.of)
        grown = topped or any(step.factor != 1.0 for step in self.of)
        out = []
        for step in self.of:
            low = _LEAST if step.cut is None else _edge_at(step.cut, start)
            high = _MOST if step.top is None else _edge_at(step.top, start)
            factor = np.float32(step.factor)
            out.append((low, high if topped else None, factor if grown else None))
        return tuple(out)


def _edge_at(cut: Cut, start: int) -> np.float32:
    """Return the smallest size that a cut keeps of the entries from a place on."""
    threshold = np.float32(cut.threshold)
    return threshold if start <= cut.last else np.nextafter(threshold, _MOST)


def _coin(coin: Any) -> Any:
    """Return a coin as compiled code knows it."""
    match coin:
        case Coin():
            return Coin(np.uint64(coin.key), np.uint32(coin.share - 1))  # type: ignore[arg-type]
        case RankedCoin() | SizeCoin():
            ranks = getattr(coin, "ranks", None)
            wide = ranks is None or ranks.values.dtype == torch.int32
            # More ranks than 16 bits hold are more than fp32 tells apart.
            number = np.float64 if wide else np.float32
            parts = {
                "key": np.uint64(coin.key),
                "step": number(coin.step * CERTAIN),
                "least": number(coin.least * CERTAIN),
            }
            return _numbers(coin._replace(key=0, step=0.0, least=0.0))._replace(**parts)
    return _numbers(coin)


def _unless_one(value: float) -> Any:
    return None if value == 1.0 else np.float32(value)


def _numbers(part: Any) -> Any:
    """Return a part of a form as compiled code knows it."""
    found = mapped(part, _number)
    if hasattr(part, "divisor"):
        found = found._replace(divisor=_unless_one(part.divisor))
    return found


def _number(leaf: Any) -> Any:
    match leaf:
        case bool():
            return leaf or None
        case int():
            return np.int64(leaf)
        case float():
            return np.float32(leaf)
    return leaf.numpy()


def _edges(
    varied: Varied, n: int
) -> tuple[tuple[np.float64, Bounds], tuple[np.float64, Bounds]]:
    """Return from which sum of squares on entries stay, and when fp32 can tell.

    Anywhere between the variances that there are will do; far from both fp32 can tell
    for more entries.

    Returns:
        For entries up to the last tie that stays, and for those after it.
    """
    (below, above), threshold = varied.near, varied.cut.threshold
    below, above = min(below, threshold), max(above, threshold)
    ends = (
        edge(below, n, beyond=below < threshold),
        edge(threshold, n),
        edge(threshold, n, beyond=True),
        edge(above, n, beyond=above == threshold),
    )
    first, others = (ends[0] + ends[1]) / 2, (ends[2] + ends[3]) / 2
    return (
        (np.float64(first), _bounds(first, n)),
        (np.float64(others), _bounds(others, n)),
    )


def _bounds(middle: float, n: int) -> Bounds:
    """Return an edge in fp32, between where sums in fp32 are surely below and above.

    The sum of the squares of differences from the first input is off by ``n + 1``
    roundings of 2**-24, the square of their sum by ``2 * n + 1``; subtracted, at least
    one part of ``n`` of the squares is left, and the last steps round, too.
    """
    if math.isnan(middle):  # nothing stays
        return np.float32(math.inf), np.float32(math.nan), np.float32(math.inf)
    if middle < _FAINT:
        return np.float32(-1.0), np.float32(middle), np.float32(math.inf)
    apart = n * (3 * n + 6) * 2.0**-24
    with np.errstate(over="ignore"):
        low, high = np.float32(middle * (1 - apart)), np.float32(middle * (1 + apart))
        return low, np.float32(middle), high


def edge(threshold: float, n: int, *, beyond: bool = False) -> float:
    """Return from which sum of squares on a variance reaches a threshold in fp32.

    The sum is divided by ``n`` in fp64 and rounded to fp32; comparing the sum itself
    saves both.

    Args:
        threshold: fp32.
        n: Number of inputs.
        beyond: The variance must be larger than the threshold.

    Returns:
        No number if no sum is enough.
    """
    least = np.float32(threshold)
    if math.isnan(threshold) or (beyond and math.isinf(threshold)):
        return math.nan
    if beyond:
        with np.errstate(over="ignore"):  # beyond the largest number is infinity
            least = np.nextafter(least, np.float32(math.inf))
    if least <= 0.0:
        return 0.0
    below = float(np.nextafter(least, np.float32(0.0)))
    middle = (below + (_BEYOND if np.isinf(least) else float(least))) / 2
    with np.errstate(over="ignore"):
        rounds_up = np.float32(middle) >= least
    wanted = middle if rounds_up else math.nextafter(middle, math.inf)
    found = wanted * n
    while found / n >= wanted:
        found = math.nextafter(found, 0.0)
    while found / n < wanted:
        found = math.nextafter(found, math.inf)
    return found
