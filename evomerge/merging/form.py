"""One form for every merge that works entry by entry: thin, weigh, reduce, finish.

A form says what is done and nothing of how. Single steps in torch carry it out (they
are the reference), a loop compiled for the CPU, and a pass compiled by torch for an
accelerator; each has one rule for every kind of value here, so a method that is a row
of such values is known to all of them.

Values are named tuples: each executor turns the numbers in them into its own, and the
rest is what code is compiled for.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch


class PerEntry(NamedTuple):
    """Numbers of which each entry of the tensor has its own, flat."""

    values: torch.Tensor


class PerRow(NamedTuple):
    """Numbers of which each row of the tensor has its own: shape ``(rows,)``, fp32."""

    values: torch.Tensor
    row: int


class Cut(NamedTuple):
    """Where a selection cuts: what is larger stays, and of equals the first ones.

    Attributes:
        threshold: Smallest score kept.
        last: Flat index of the last entry of just this score that is kept.
    """

    threshold: float
    last: int


class Coin(NamedTuple):
    """Every entry stays with one probability.

    Attributes:
        key: The random stream.
        share: The probability in units of 2**-32.
    """

    key: int
    share: int


class ColumnCoin(NamedTuple):
    """An entry stays if its column does.

    Attributes:
        mask: fp32, one per column: 1.0 for what stays, 0.0 for what goes.
    """

    mask: torch.Tensor


class Given(NamedTuple):
    """What an entry is multiplied by was found out before: fp32."""

    worth: PerEntry


class RankBand(NamedTuple):
    """An entry stays if its rank in its row lies in a band; nothing is tossed.

    Attributes:
        ranks: uint16 or int32; 0 for the smallest of its row. None where rows are too
            long for ranks to be kept.
        row: Entries of a row.
        low: The first rank that stays.
        high: The first above those that stay.
    """

    ranks: PerEntry | None
    row: int
    low: int
    high: int


class RankedCoin(NamedTuple):
    """An entry stays with a probability that grows with its rank in its row.

    Attributes:
        key: The random stream.
        ranks: As for :class:`RankBand`; uint16 are reckoned with in fp32, others in
            fp64.
        row: Entries of a row.
        step: By how much the probability grows from rank to rank.
        least: Probability of rank 0.
        inverse: What stays is divided by its probability.
    """

    key: int
    ranks: PerEntry | None
    row: int
    step: float
    least: float
    inverse: bool


class SizeCoin(NamedTuple):
    """As :class:`RankedCoin`, by where its size lies between its row's ends, in fp64.

    Attributes:
        smallest: Of each row.
        width: From each row's smallest to its largest, fp64; not zero.
        share: Where an entry lies if all of its row are equal: 0.5 there, else zero.
    """

    key: int
    smallest: PerRow
    width: PerRow
    share: PerRow
    step: float
    least: float
    inverse: bool


AnyCoin = Coin | ColumnCoin | Given | RankBand | RankedCoin | SizeCoin


class Step(NamedTuple):
    """What thins one input's difference, in this order.

    Attributes:
        cut: Entries of smaller size go.
        top: Entries of this size and larger go.
        coin: Entries go at random, or by what is known of them.
        factor: On what is left.
    """

    cut: Cut | None = None
    top: Cut | None = None
    coin: AnyCoin | None = None
    factor: float = 1.0


class Varied(NamedTuple):
    """Entries stay in which the inputs vary most.

    Attributes:
        cut: By the variance, in fp64 and rounded to fp32.
        near: The largest variance that there is below the smallest selected one, and
            the smallest above; this one itself where nothing is known.
    """

    cut: Cut
    near: tuple[float, float]


class Used(NamedTuple):
    """Entries stay that enough inputs use.

    Attributes:
        share: Of what the others add up to a difference must exceed to count.
        least: How many must count.
    """

    share: float
    least: float


class Outstanding(NamedTuple):
    """Entries stay whose size, times a factor of their row, reaches a threshold."""

    factor: PerRow
    threshold: float


class Votes(NamedTuple):
    """How the sign of an entry is elected.

    Attributes:
        by_count: One vote per input instead of the sum.
        plain: The sum that elects leaves the weights out.
        plus: Who wins a draw: plus, or minus; None for the sign that most entries of
            the tensor got.
    """

    by_count: bool = False
    plain: bool = False
    plus: bool | None = True


class Total(NamedTuple):
    """The weighted sum of the inputs.

    Attributes:
        weights: One per input.
        divisor: What the sum is divided by.
    """

    weights: tuple[float, ...]
    divisor: float = 1.0


class Ballot(NamedTuple):
    """Signs are elected, and those who agree are merged.

    Attributes:
        weights: One per input.
        votes: Who elects.
        mean: Divide by the weights that agree.
        mixed: Weights that agree may cancel: the entry is zero then.
    """

    weights: tuple[float, ...]
    votes: Votes
    mean: bool
    mixed: bool


class Signs(NamedTuple):
    """The elected sign of every entry; zero where it is a draw."""

    weights: tuple[float, ...]
    votes: Votes


class Largest(NamedTuple):
    """The largest of the weighted differences.

    Attributes:
        weights: One per input.
        last: Of equals the last, not the first.
    """

    weights: tuple[float, ...]
    last: bool = False


class LargestOf(NamedTuple):
    """The largest of those that have the elected sign; zero where none has it."""

    weights: tuple[float, ...]
    votes: Votes


class Active(NamedTuple):
    """The mean of the differences above a size; lone ones times their factor."""

    epsilon: float
    factors: tuple[float, ...]


class Towards(NamedTuple):
    """One difference, by a step of at most ``t``."""

    t: float


class Range(NamedTuple):
    """From where to where numbers run; what lies outside counts as the end.

    Attributes:
        factor: One over the width; zero if the range is a point.
    """

    low: float
    high: float
    factor: float


class Contest(NamedTuple):
    """The mean by what differences win in competition (PCB).

    Attributes:
        sizes: The range that the sizes of each input's differences are brought to.
        scores: The range of each input's scores that count.
        weights: One per input.
        pairwise: Inputs compete each with each; else with the sum of all.
    """

    sizes: tuple[Range, ...]
    scores: tuple[Range, ...]
    weights: tuple[float, ...]
    pairwise: bool


class Informed(NamedTuple):
    """The mean by what was measured of each entry of each input.

    Attributes:
        weights: One per input.
        measured: Of each input.
        norms: What they are divided by.
        floor: The least of them after that.
        power: Exponent on them.
    """

    weights: tuple[float, ...]
    measured: tuple[PerEntry, ...]
    norms: tuple[float, ...]
    floor: float
    power: float


Reduce = (
    Total | Ballot | Signs | Largest | LargestOf | Active | Towards | Contest | Informed
)


class Form(NamedTuple):
    """``base + scale * finish(reduce(weigh(thin(differences))))``.

    Attributes:
        reduce: How inputs become one, with their weights.
        thin: A step for each input; None if nothing is thinned.
        among: Which entries stay, the same of every input; before the steps.
        use: Which of the merged entries stay.
        scale: On the merged difference.
        checked: A difference that is not finite is refused: who chooses among
            differences would pass over it, where a sum shows it.
        bare: The base is left out of the result.
    """

    reduce: Reduce
    thin: tuple[Step, ...] | None = None
    among: Varied | Used | Outstanding | None = None
    use: Used | None = None
    scale: float = 1.0
    checked: bool = False
    bare: bool = False


def mapped(value: Any, change: Any) -> Any:
    """Return a value of a form with every leaf changed: what is no tuple and no None.

    Args:
        value: A form, or a part of one.
        change: Leaf to what stands in its place.
    """
    if value is None:
        return None
    if not isinstance(value, tuple):
        return change(value)
    found = (mapped(part, change) for part in value)
    make = getattr(type(value), "_make", tuple)
    return make(found)
