"""Sums and elections of thinned differences as formulas of an entry and its place.

What ``sums.linear`` and ``sums.ties`` do in steps, said without changing anything in
place, so that a compiler can make one pass of it. The steps, and their order, are the
same, and so is every rounding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import NamedTuple

import torch

from evomerge.merging.constants import CANCELLED, CERTAIN, FINER
from evomerge.merging.operators.loops.counter import lanes_at

ROW = 1024
"""Tensors come in rows of so many entries; whether one is finite is told row by row."""
_OVERFLOWS = {
    torch.float32: float("inf"),
    torch.bfloat16: 2.0**127 * (2.0 - 2.0**-8),
    torch.float16: 65520.0,
}
"""The smallest size that is not finite once it is rounded."""


@dataclass(frozen=True, slots=True)
class Thinning:
    """What drops entries: a size too small, or a coin.

    Attributes:
        top: Also a size too large.
        coin: A coin instead of the size.
        ranked: Its chances go by rank.
        inverse: What stays is divided by its chance.
    """

    top: bool = False
    coin: bool = False
    ranked: bool = False
    inverse: bool = False


@dataclass(frozen=True, slots=True)
class Vote:
    """How signs are elected; see ``onepass.Rule``.

    Attributes:
        count: One vote per input.
        plain: The sum that elects leaves the weights out.
        normalize: Divide by the weights that agree.
        mixed: There are weights of both signs.
    """

    count: bool
    plain: bool
    normalize: bool
    mixed: bool


class Entries(NamedTuple):
    """Tensors of one merge, or the same part of each, in rows.

    Attributes:
        out: The result.
        inputs: In their types.
        base: What they differ from, if anything.
        ranks: uint16, one per input; empty where no chance goes by rank.
        start: int64, one number: flat index of the first entry.
    """

    out: torch.Tensor
    inputs: tuple[torch.Tensor, ...]
    base: torch.Tensor | None
    ranks: tuple[torch.Tensor, ...]
    start: torch.Tensor


class Numbers(NamedTuple):
    """What a candidate decides. Each a vector, one number per input.

    Attributes:
        weights: fp32, like what follows.
        lows: Smallest size that stays.
        tops: Smallest size that is too large.
        factors: On what is left.
        divisors: Of the merged difference; all the same, like the scales.
        scales: On it.
        steps: How much chances grow from rank to rank, in units of 2**-24.
        leasts: Chance of rank 0, in these.
        low_lasts: int64, like what follows: last entry of just the smallest size.
        top_lasts: Last entry of just the size that is too large.
        keys: Random streams.
        shares: Lanes below this stay.
    """

    weights: torch.Tensor
    lows: torch.Tensor
    tops: torch.Tensor
    factors: torch.Tensor
    divisors: torch.Tensor
    scales: torch.Tensor
    steps: torch.Tensor
    leasts: torch.Tensor
    low_lasts: torch.Tensor
    top_lasts: torch.Tensor
    keys: torch.Tensor
    shares: torch.Tensor


class Tables(NamedTuple):
    """The numbers of a candidate as they are given: few tensors are told apart faster.

    Attributes:
        singles: fp32, shape ``(kinds of them, inputs)``; in the order of ``Numbers``.
        wholes: int64, likewise.
    """

    singles: torch.Tensor
    wholes: torch.Tensor


Formula = Callable[[Entries, Tables], torch.Tensor]
"""Writes the merge to ``out``; returns, for every row, whether any is not finite."""


def formula(thinning: Thinning | None, vote: Vote | None) -> Formula:
    """Return what merges entries: the sum, or with a vote the election.

    Args:
        thinning: What may drop an entry; None if nothing does.
        vote: How signs are elected; None for the sum.
    """

    def merge(entries: Entries, tables: Tables) -> torch.Tensor:
        numbers = Numbers(*(row for table in tables for row in table.unbind()))
        base = None if entries.base is None else entries.base.to(torch.float32)
        deltas = [tensor.to(torch.float32) for tensor in entries.inputs]
        if base is not None:
            deltas = [delta - base for delta in deltas]
        if thinning is not None:
            deltas = _thinned(thinning, deltas, entries, numbers)
        if vote is None:
            merged = _total(_each_times(deltas, numbers.weights))
            merged = merged / numbers.divisors[0]
        else:
            merged = _elected(vote, deltas, numbers.weights)
        merged = merged * numbers.scales[0]
        if base is not None:
            merged = merged + base
        entries.out.copy_(merged)
        is_finite = merged.abs() < _OVERFLOWS[entries.out.dtype]
        return (~is_finite).any(dim=1)

    return merge


def _total(values: Sequence[torch.Tensor]) -> torch.Tensor:
    return reduce(torch.add, values)


def _each_times(
    values: Sequence[torch.Tensor], factors: torch.Tensor
) -> list[torch.Tensor]:
    return [value * factors[index] for index, value in enumerate(values)]


def _thinned(
    thinning: Thinning, deltas: list[torch.Tensor], entries: Entries, numbers: Numbers
) -> list[torch.Tensor]:
    rows = torch.arange(entries.out.shape[0], device=entries.out.device)
    columns = torch.arange(ROW, device=entries.out.device)
    places = entries.start + (rows[:, None] * ROW + columns)
    if thinning.coin:
        masks = [
            _mask(thinning, index, places, entries, numbers)
            for index in range(len(deltas))
        ]
        left = [delta * mask for delta, mask in zip(deltas, masks, strict=True)]
    else:
        left = [
            torch.where(
                _gone(thinning, index, delta.abs(), places, numbers), 0.0, delta
            )
            for index, delta in enumerate(deltas)
        ]
    return _each_times(left, numbers.factors)


def _gone(
    thinning: Thinning,
    index: int,
    sizes: torch.Tensor,
    places: torch.Tensor,
    numbers: Numbers,
) -> torch.Tensor:
    """Tell which entries go by size; what is no number or infinite stays."""
    low, last = numbers.lows[index], numbers.low_lasts[index]
    gone = (sizes < low) | ((sizes == low) & (places > last))
    if not thinning.top:
        return gone
    top, last = numbers.tops[index], numbers.top_lasts[index]
    above = (sizes > top) | ((sizes == top) & (places <= last))
    return gone | (above & (sizes < float("inf")))


def _mask(
    thinning: Thinning,
    index: int,
    places: torch.Tensor,
    entries: Entries,
    numbers: Numbers,
) -> torch.Tensor:
    """Return 1.0, or one over the chance, for what stays, and 0.0 for what goes."""
    lanes = lanes_at(numbers.keys[index], places)
    if not thinning.ranked:
        return (lanes < numbers.shares[index]).to(torch.float32)
    ranks = entries.ranks[index].to(torch.float32)
    chances = torch.round(ranks * numbers.steps[index] + numbers.leasts[index])
    drawn = ((lanes >> FINER) + CERTAIN // 2).to(torch.float32)
    mask = (drawn < chances).to(torch.float32)
    if thinning.inverse:
        mask = mask * torch.reciprocal(chances / CERTAIN)
    return mask


def _elected(
    vote: Vote, deltas: list[torch.Tensor], weights: torch.Tensor
) -> torch.Tensor:
    """Return the sum or the mean of those who agree with the elected sign."""
    weighted = _each_times(deltas, weights)
    votes = deltas if vote.plain else weighted
    tally = _total([torch.sign(value) for value in votes] if vote.count else votes)
    sign = torch.where(tally >= 0.0, 1.0, -1.0)
    agreeing = [value * sign for value in weighted]
    # What is no number is not below zero and stays; zeros lose their sign.
    merged = _total([torch.where(value <= 0.0, 0.0, value) for value in agreeing])
    if vote.normalize:
        merged = _mean(vote, merged, agreeing, weights)
    return merged * sign


def _mean(
    vote: Vote,
    merged: torch.Tensor,
    agreeing: Sequence[torch.Tensor],
    weights: torch.Tensor,
) -> torch.Tensor:
    flags = [(value > 0.0).to(torch.float32) for value in agreeing]
    under = _total(_each_times(flags, weights))
    if vote.mixed:
        size = _total(_each_times(flags, weights.abs()))
        merged = merged * (under.abs() > size * CANCELLED).to(torch.float32)
    return merged / (under + (under == 0.0).to(torch.float32))
