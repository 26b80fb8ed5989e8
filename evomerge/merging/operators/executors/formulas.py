"""What a form does to entries, in torch: the reference for every other executor.

Everything is said without changing anything in place, of entries and of where they
stand, so that the same lines are single steps over a block and, compiled, one pass over
a tensor. What is not said in one step is rounded between two.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce
from typing import Any, Protocol

import torch

from evomerge.merging.constants import CANCELLED, CERTAIN, FINER, NO_STEP, NO_WEIGHT
from evomerge.merging.elementary import exp_, tanh_, tanh_of_part_
from evomerge.merging.form import (
    Active,
    Ballot,
    Coin,
    ColumnCoin,
    Contest,
    Cut,
    Form,
    Given,
    Informed,
    Largest,
    LargestOf,
    Outstanding,
    PerEntry,
    PerRow,
    Range,
    RankBand,
    RankedCoin,
    Signs,
    SizeCoin,
    Step,
    Total,
    Towards,
    Used,
    Varied,
    Votes,
)

_MOST = 88.0
"""Exponentials of more are no fp32 numbers; it takes as many inputs."""
_NOTHING = 1e-30
"""Where all that is divided by sums to less, no input says anything: the plain mean."""

Tensors = Sequence[torch.Tensor]


class Place(Protocol):
    """Where the entries of a block stand in their tensor."""

    def below(self, cut: Cut, scores: torch.Tensor) -> torch.Tensor:
        """Tell which entries a cut drops by their scores; never what is no number."""

    def lanes(self, key: int) -> torch.Tensor:
        """Return the random bits of a stream: whole numbers from -2**31 to 2**31 - 1.

        They may be overwritten by the next call.
        """

    def per_entry(self, found: PerEntry) -> torch.Tensor:
        """Return the entries' own numbers."""

    def per_row(self, found: PerRow) -> torch.Tensor:
        """Return the numbers of the entries' rows."""

    def by_column(self, row: torch.Tensor) -> torch.Tensor:
        """Return the numbers of the entries' columns."""

    def ranks(self, row: int, delta: torch.Tensor) -> torch.Tensor:
        """Return the entries' ranks in their rows, of which the block holds whole ones.

        Args:
            row: Entries of a row.
            delta: The entries.
        """


def merged(form: Form, deltas: Tensors, at: Place) -> torch.Tensor:
    """Return what becomes of the inputs' differences, without the base.

    Args:
        form: What is done.
        deltas: Of each input, fp32; not changed.
        at: Where they stand.
    """
    found = reduced(form.reduce, thinned(form, deltas, at), at)
    if form.use is not None:
        found = found * _enough(form.use, found, deltas)
    return times(found, form.scale)


def thinned(form: Form, deltas: Tensors, at: Place) -> Tensors:
    """Return what is left of every input's differences."""
    if form.among is not None:
        kept = _kept(form.among, deltas, at)
        deltas = [delta * kept for delta in deltas]
    if form.thin is None:
        return deltas
    pairs = zip(form.thin, deltas, strict=True)
    return [left(step, delta, at) for step, delta in pairs]


def times(values: torch.Tensor, factor: Any) -> torch.Tensor:
    """Return values times a factor; one that is known to be one is left out."""
    return values if isinstance(factor, float) and factor == 1.0 else values * factor


def left(step: Step, delta: torch.Tensor, at: Place) -> torch.Tensor:
    """Return what a step leaves of one input's differences."""
    if step.cut is not None:
        sizes = delta.abs()
        gone = at.below(step.cut, sizes)
        if step.top is not None:
            # What is no number or infinite stays, and is told of.
            gone = gone | (~at.below(step.top, sizes) & (sizes < float("inf")))
        delta = torch.where(gone, 0.0, delta)
    if step.coin is not None:
        delta = delta * worth(step.coin, delta, at)
    return times(delta, step.factor)


def worth(coin: Any, delta: torch.Tensor, at: Place) -> torch.Tensor:
    """Return by what a coin multiplies every entry: zero for what goes."""
    match coin:
        case Coin():
            return (at.lanes(coin.key) < coin.share - 2**31).to(torch.float32)
        case ColumnCoin():
            return at.by_column(coin.mask)
        case Given():
            return at.per_entry(coin.worth)
        case RankBand():
            ranks = _ranks(coin, delta, at).to(torch.int32)
            return ((ranks >= coin.low) & (ranks < coin.high)).to(torch.float32)
    chances = chance(coin, delta, at)
    # Lanes are signed: shifted they start at minus half of what is certain.
    drawn = ((at.lanes(coin.key) >> FINER) + CERTAIN // 2).to(torch.float32)
    stays = (drawn < chances).to(torch.float32)
    return stays * torch.reciprocal(chances / CERTAIN) if coin.inverse else stays


def chance(coin: RankedCoin | SizeCoin, delta: torch.Tensor, at: Place) -> torch.Tensor:
    """Return with which probability entries stay, fp32, whole units of 2**-24.

    By steps that every device rounds alike, so that the same entries stay everywhere.
    """
    step, least = coin.step * CERTAIN, coin.least * CERTAIN
    if isinstance(coin, SizeCoin):
        sizes = delta.abs().to(torch.float64) - at.per_row(coin.smallest)
        places = sizes / at.per_row(coin.width) + at.per_row(coin.share)
    else:
        ranks = _ranks(coin, delta, at)
        # Compiled loops are twice as fast in fp32, which holds ranks of 16 bits.
        short = ranks.dtype == torch.uint16
        places = ranks.to(torch.float32 if short else torch.float64)
    return torch.round(places * step + least).to(torch.float32)


def _ranks(coin: RankBand | RankedCoin, delta: torch.Tensor, at: Place) -> torch.Tensor:
    if coin.ranks is None:
        return at.ranks(coin.row, delta)
    return at.per_entry(coin.ranks)


def _kept(
    among: Varied | Used | Outstanding, deltas: Tensors, at: Place
) -> torch.Tensor:
    match among:
        case Varied():
            stays = ~at.below(among.cut, variances(deltas))
        case Used():
            stays = _enough(among, _sum(deltas), deltas)
        case Outstanding():
            sizes = deltas[0].abs() * at.per_row(among.factor)
            stays = sizes >= among.threshold
    return stays.to(torch.float32)


def variances(deltas: Tensors) -> torch.Tensor:
    """Return the variances of entries over the inputs, fp32.

    In fp64, rounded once: the order of the inputs does not decide between entries.
    """
    mean = _sum([delta.to(torch.float64) for delta in deltas]) / len(deltas)
    spread = _sum([(delta - mean).square() for delta in deltas]) / len(deltas)
    # What is no number may carry a sign, and scores are told apart by their bits.
    return spread.to(torch.float32).abs()


def _enough(use: Used, merged: torch.Tensor, deltas: Tensors) -> torch.Tensor:
    """Tell which merged entries are used by enough inputs."""
    users = [
        (delta.abs() > (merged - delta).abs() * use.share).to(torch.float32)
        for delta in deltas
    ]
    return (_sum(users) >= use.least).to(torch.float32)


def reduced(how: Any, values: Tensors, at: Place) -> torch.Tensor:
    """Return what inputs become; see the kinds of ``form.Reduce``."""
    match how:
        case Total():
            return _divided(_sum(_weighted(values, how.weights)), how.divisor)
        case Ballot():
            return _elected(how, values)
        case Signs():
            return torch.sign(_tally(how.votes, values, how.weights))
        case Largest():
            return _largest(_weighted(values, how.weights), last=how.last)
        case LargestOf():
            sign = _signs(how.votes, values, how.weights)
            none = torch.zeros_like(sign)
            sizes = [value * sign for value in _weighted(values, how.weights)]
            return reduce(torch.maximum, sizes, none) * sign
        case Active():
            return _active(how, values)
        case Towards():
            share = values[0].abs().clamp_min(NO_STEP).reciprocal() * how.t
            return values[0] * share.clamp_max(1.0)
        case Contest():
            return _won(how, values)
        case Informed():
            return _informed(how, values, at)
    raise TypeError(f"Expected a way to reduce that torch has, but got {how!r}.")


def _sum(values: Tensors) -> torch.Tensor:
    """Return the sum, first to last."""
    return reduce(torch.add, values)


def _weighted(values: Tensors, weights: Sequence[float]) -> Tensors:
    pairs = zip(values, weights, strict=True)
    # Not in one step with the sum: that would round once less.
    return [value * weight for value, weight in pairs]


def _divided(values: torch.Tensor, divisor: Any) -> torch.Tensor:
    if isinstance(divisor, float):
        # On the device: for a plain number a GPU multiplies by one over it.
        return values if divisor == 1.0 else values / values.new_tensor(divisor)
    return values / divisor


def _tally(votes: Votes, values: Tensors, weights: Sequence[float]) -> torch.Tensor:
    mine = values if votes.plain else _weighted(values, weights)
    return _sum([torch.sign(value) for value in mine] if votes.by_count else mine)


def _signs(votes: Votes, values: Tensors, weights: Sequence[float]) -> torch.Tensor:
    """Return +1 or -1, whose sign every entry's votes elect."""
    assert votes.plus is not None, "a majority is found before"
    tally = _tally(votes, values, weights)
    return torch.where(tally >= 0.0 if votes.plus else tally > 0.0, 1.0, -1.0)


def _elected(how: Ballot, values: Tensors) -> torch.Tensor:
    """Return the sum or the mean of those who agree with the elected sign."""
    sign = _signs(how.votes, values, how.weights)
    # Positive now means agreeing, zero is no opinion.
    agreeing = [value * sign for value in _weighted(values, how.weights)]
    # What is no number is not below zero and stays; zeros lose their sign.
    merged = _sum([torch.where(value <= 0.0, 0.0, value) for value in agreeing])
    if how.mean:
        flags = [(value > 0.0).to(torch.float32) for value in agreeing]
        under = _sum(_weighted(flags, how.weights))
        if how.mixed:
            size = _sum(_weighted(flags, [abs(weight) for weight in how.weights]))
            # Weights of both signs may cancel: no mean exists, the entry stays zero.
            merged = merged * (under.abs() > size * CANCELLED)
        # Where nobody agreed it is zero over one.
        merged = merged / (under + (under == 0.0).to(torch.float32))
    return merged * sign


def _largest(values: Tensors, *, last: bool) -> torch.Tensor:
    best = values[0]
    for value in values[1:]:
        sizes, mine = value.abs(), best.abs()
        best = torch.where(sizes >= mine if last else sizes > mine, value, best)
    return best


def _active(how: Active, values: Tensors) -> torch.Tensor:
    flags = [(value.abs() > how.epsilon).to(torch.float32) for value in values]
    count = _sum(flags)
    alone = count == 1.0
    out = torch.zeros_like(count)
    for value, flag, factor in zip(values, flags, how.factors, strict=True):
        mine = value * flag
        out = out + torch.where(alone, times(mine, factor), mine)
    return out / count.clamp_min(1.0)


def _won(how: Contest, values: Tensors) -> torch.Tensor:
    out, under = torch.zeros_like(values[0]), torch.zeros_like(values[0])
    for index, value in enumerate(values):
        won = _part(how.scores[index], scores(how, index, values))
        size = how.sizes[index]
        clipped = value.abs().clamp(size.low, size.high) * value.sign()
        out = out + clipped * how.weights[index] * won
        under = under + won
    return out / under.clamp_min(NO_WEIGHT)


def scores(how: Contest, index: int, values: Tensors) -> torch.Tensor:
    """Return how one input does in a contest: within itself, and between inputs."""
    mine, size = values[index], how.sizes[index]
    inter = torch.zeros_like(mine)
    if how.pairwise:
        own = _normal(size, mine)
        for theirs, ends in zip(values, how.sizes, strict=True):
            inter = inter + tanh_of_part_(_normal(ends, theirs) * own)
    else:
        inter = tanh_(_sum([inter, *values]) * mine)
    within = _part(size, mine.abs()).square()
    return exp_((within * len(values)).clamp_max(_MOST)) * inter


def _part(ends: Range, values: torch.Tensor) -> torch.Tensor:
    """Map a range to [0, 1]; to zero if it is a point."""
    return (values.clamp(ends.low, ends.high) - ends.low) * ends.factor


def _normal(ends: Range, delta: torch.Tensor) -> torch.Tensor:
    """Return differences by size from 0 to 1, with their signs."""
    return _part(ends, delta.abs()) * delta.sign()


def _informed(how: Informed, values: Tensors, at: Place) -> torch.Tensor:
    part, plain, under = (torch.zeros_like(values[0]) for _ in range(3))
    for index, (value, weight) in enumerate(zip(values, how.weights, strict=True)):
        plain = _plus_times(plain, value, weight)
        measured = at.per_entry(how.measured[index]).to(torch.float32)
        informed = (measured / how.norms[index]).clamp_min(how.floor)
        informed = informed.pow(how.power) * weight
        part = part + value * informed
        under = under + informed
    silent = under < _NOTHING
    return torch.where(silent, plain, part / under.masked_fill(silent, 1.0))


def _plus_times(total: torch.Tensor, values: torch.Tensor, weight: Any) -> torch.Tensor:
    if isinstance(weight, float):
        return torch.add(total, values, alpha=weight)
    return total + values * weight
