"""What is dropped of each input's difference before the rest is merged.

A thinning does its work in place, block by block, wherever the tensors lie. Where the
steps are simple enough it also says what they are, so that compiled code can take them
in the same pass as the merge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from evomerge.merging.operators.inputs import Cut

Thin = Callable[[int, slice, torch.Tensor], None]
"""Sparsifies, in place, a block of one input's differences: (input, block, values)."""


@dataclass(frozen=True, slots=True)
class Coin:
    """Every entry stays with one probability.

    Attributes:
        key: The random stream.
        share: The probability in units of 2**-32.
    """

    key: int
    share: int


@dataclass(frozen=True, slots=True)
class ColumnCoin:
    """An entry stays if its column does.

    Attributes:
        mask: fp32, one per column: 1.0 for what stays, 0.0 for what goes.
    """

    mask: torch.Tensor


@dataclass(frozen=True, slots=True)
class RankBand:
    """An entry stays if its rank in its row lies in a band; nothing is tossed.

    Attributes:
        ranks: As for :class:`RankedCoin`.
        low: The first rank that stays.
        high: The first above those that stay.
    """

    ranks: torch.Tensor
    low: int
    high: int


@dataclass(frozen=True, slots=True)
class RankedCoin:
    """An entry stays with a probability that grows with its rank in its row.

    Attributes:
        key: The random stream.
        ranks: uint16 or int32, flat, as long as the tensor; 0 for the smallest of its
            row.
        step: By how much the probability grows from rank to rank.
        least: Probability of rank 0.
        inverse: What stays is divided by its probability.
    """

    key: int
    ranks: torch.Tensor
    step: float
    least: float
    inverse: bool


AnyCoin = Coin | ColumnCoin | RankBand | RankedCoin


@dataclass(frozen=True, slots=True)
class Step:
    """What is done to one input's difference, in this order.

    Attributes:
        cut: Entries of smaller size go.
        top: Entries of this size and larger go.
        coin: Entries go at random.
        factor: On what is left.
    """

    cut: Cut | None = None
    top: Cut | None = None
    coin: AnyCoin | None = None
    factor: float = 1.0


@dataclass(frozen=True, slots=True)
class Steps:
    """A thinning that can say what it does.

    Attributes:
        thin: The work itself.
        of: One step for each input.
    """

    thin: Thin
    of: tuple[Step, ...]

    @property
    def are_alike(self) -> bool:
        """Whether entries go either by size or at random, but not both."""
        cut = any(step.cut or step.top for step in self.of)
        return not (cut and any(step.coin for step in self.of))

    def __call__(self, index: int, block: slice, delta: torch.Tensor) -> None:
        """Thin a block in place."""
        self.thin(index, block, delta)


def scaled(thin: Thin, factors: tuple[float, ...]) -> Thin:
    """Return the thinning with a factor on what is left of each input."""

    def both(index: int, block: slice, delta: torch.Tensor) -> None:
        thin(index, block, delta)
        if factors[index] != 1.0:
            delta.mul_(factors[index])

    if not isinstance(thin, Steps) or any(step.factor != 1.0 for step in thin.of):
        return both
    pairs = zip(thin.of, factors, strict=True)
    return Steps(both, tuple(replace(step, factor=f) for step, f in pairs))
