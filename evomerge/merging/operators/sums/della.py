"""DELLA (Deep et al. 2024, 2406.11617): the larger a difference, the likelier it stays.

Per row of a matrix, keep probabilities run from density - epsilon for the smallest
difference to density + epsilon for the largest, evenly by rank.
"""

from __future__ import annotations

import torch

from evomerge.core.recipes.settings import Settings, spreads
from evomerge.merging.constants import CERTAIN, FINER
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import Coins, stream_key
from evomerge.merging.operators.loops.onepass import Rule
from evomerge.merging.operators.loops.order_statistics import (
    MOST_RANKS,
    ranks,
    row_length,
    row_ranks,
    whole_ranks,
)
from evomerge.merging.operators.loops.thinning import RankedCoin, Step, Steps, Thin
from evomerge.merging.operators.sums.linear import Sum, delta_factors
from evomerge.merging.operators.sums.ties import Election
from evomerge.merging.operators.thresholds.sparsify import keep_l1


def della(inputs: Inputs) -> Election:
    """Elect signs among what is left of the differences and merge those who agree."""
    deltas = _by_rows(inputs)
    thin = prune(inputs.settings, deltas, inputs.key)
    return Election(deltas, thin, Rule.of(inputs.settings))


def della_linear(inputs: Inputs) -> Sum:
    """Add the weighted sum of what is left of the differences to the base."""
    deltas = _by_rows(inputs)
    thin = prune(inputs.settings, deltas, inputs.key)
    return Sum(deltas, *delta_factors(inputs.settings), thin)


def prune(settings: Settings, deltas: Deltas, key: str) -> Thin:
    """Return the random thinning that the settings ask for.

    Args:
        settings: Read for ``density``, ``epsilon`` or ``eps_frac``, ``rank_by``,
            ``rescale`` and ``seed``.
        deltas: What to thin; its blocks are whole rows, unless all entries are ranked.
        key: Name of the tensor.
    """
    probabilities = KeepProbabilities(settings, deltas)
    flips = _Flips(settings, deltas, key)
    densities = settings.numbers("density")
    inverse = settings.choice("rescale") == "inverse"

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        if densities[index] < 1.0:
            keep = probabilities.of(index, block, delta)
            mask = flips.mask(index, block, keep * CERTAIN)
            if inverse:
                mask.mul_(keep.reciprocal_())
            delta.mul_(mask)

    steps = _steps(settings, probabilities, flips, inverse=inverse)
    known = thin if steps is None else Steps(thin, steps)
    return keep_l1(deltas, known) if settings.choice("rescale") == "l1" else known


def _by_rows(inputs: Inputs) -> Deltas:
    whole = inputs.settings.choice("rank_by") == "tensor_rank"
    return Deltas.of(inputs, multiple_of=1 if whole else row_length(inputs.shape))


def _steps(
    settings: Settings,
    probabilities: KeepProbabilities,
    flips: _Flips,
    *,
    inverse: bool,
) -> tuple[Step, ...] | None:
    """Return what is done to each input where compiled code knows ranks, else None."""
    steps = []
    for index, (density, spread) in enumerate(
        zip(settings.numbers("density"), spreads(settings), strict=True)
    ):
        if density >= 1.0:
            steps.append(Step())
            continue
        ranks = probabilities.compiled_ranks(index)
        if ranks is None:
            return None
        step = 2.0 * spread / (probabilities.row - 1)
        coin = RankedCoin(flips.keys[index], ranks, step, density - spread, inverse)
        steps.append(Step(coin=coin))
    return tuple(steps)


class KeepProbabilities:
    """With which probability every entry stays, in whole units of 2**-24.

    By steps that every device rounds alike, so that the same entries stay everywhere.

    Attributes:
        row: How many entries are ranked together.
    """

    def __init__(self, settings: Settings, deltas: Deltas) -> None:
        self._deltas = deltas
        self._rank_by = settings.choice("rank_by")
        whole = self._rank_by == "tensor_rank"
        self.row = deltas.n if whole else row_length(deltas.shape)
        self._ranks: dict[int, torch.Tensor | None] = {}
        self._ends = [
            (density - spread, 2.0 * spread)
            for density, spread in zip(
                settings.numbers("density"), spreads(settings), strict=True
            )
        ]

    def of(self, index: int, block: slice, delta: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of a block of differences, flat, fp32.

        The block is one of whole rows, except where entries are ranked in the tensor.
        """
        chances = self._chances(index, block, delta)
        return chances.round_().to(torch.float32).div_(CERTAIN)

    def compiled_ranks(self, index: int) -> torch.Tensor | None:
        """Return an input's ranks where compiled code can take them, else None."""
        if self.row < 2 or not self._deltas.n or self._rank_by == "row_minmax":
            return None
        if self._rank_by == "tensor_rank" and self._deltas.device.type != "cpu":
            return None
        return self._known(index)

    def _known(self, index: int) -> torch.Tensor | None:
        """Return an input's ranks; None if rows are too long for them to be kept."""
        if index not in self._ranks:
            whole = self._rank_by == "tensor_rank"
            self._ranks[index] = (
                whole_ranks(self._deltas, index)
                if whole
                else row_ranks(self._deltas, index, self.row)
            )
        return self._ranks[index]

    def _chances(self, index: int, block: slice, delta: torch.Tensor) -> torch.Tensor:
        low, width = (CERTAIN * end for end in self._ends[index])
        if self.row == 1:
            return torch.full_like(delta, low + width / 2, dtype=torch.float64)
        if self._rank_by == "row_minmax":
            rows = delta.view(-1, self.row).abs()
            return _min_max(rows).mul_(width).add_(low).view(-1)
        known = self._known(index)
        if known is None:
            found = ranks(delta.view(-1, self.row).abs()).view(-1)
        else:
            found = known[block]
        # Compiled loops are twice as fast in fp32, which holds ranks of 16 bits.
        short = self._rank_by == "row_rank" and self.row <= MOST_RANKS
        dtype = torch.float32 if short else torch.float64
        return found.to(dtype).mul_(width / (self.row - 1)).add_(low)


class _Flips:
    """Coins that fall on 1.0 with given probabilities and else on 0.0.

    Attributes:
        keys: The random stream of each input.
    """

    def __init__(self, settings: Settings, deltas: Deltas, key: str) -> None:
        operation = settings.operation
        seed = settings.shared["seed"]
        self.keys = [
            stream_key(seed, operation.operator, name, key) for name in operation.inputs
        ]
        self._coins = Coins(len(deltas.scratch()), deltas.device)

    def mask(self, index: int, block: slice, chances: torch.Tensor) -> torch.Tensor:
        """Return the coins of a block, fp32.

        Args:
            index: Which input.
            block: Which entries.
            chances: fp32, whole units of 2**-24.
        """
        lanes = self._coins.lanes(self.keys[index], block)
        # Lanes are signed: shifted they start at minus half of what is certain.
        drawn = (lanes >> FINER).add_(CERTAIN // 2).to(torch.float32)
        return torch.lt(drawn, chances).to(torch.float32)


def _min_max(sizes: torch.Tensor) -> torch.Tensor:
    """Return where each size lies between its row's smallest and largest, fp64.

    Where all are equal it is the middle.
    """
    sizes = sizes.to(torch.float64)
    low, high = sizes.amin(1, keepdim=True), sizes.amax(1, keepdim=True)
    span = high - low
    part = (sizes - low).div_(span.masked_fill(span == 0.0, 1.0))
    return part.masked_fill_(span == 0.0, 0.5)
