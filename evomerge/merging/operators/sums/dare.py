"""DARE (Yu et al. 2023): drop differences at random and rescale the rest.

The mask of an entry depends on the seed, the operator, the input's name, the tensor's
key and the entry's place, and on nothing else.
"""

from collections.abc import Sequence

import torch

from evomerge.core.recipes.settings import Settings
from evomerge.merging.operators.inputs import Inputs
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.loops.counter import Coins, share_of, stream_key
from evomerge.merging.operators.loops.onepass import Rule
from evomerge.merging.operators.loops.thinning import (
    Coin,
    ColumnCoin,
    Step,
    Steps,
    Thin,
)
from evomerge.merging.operators.sums.linear import Sum, delta_factors
from evomerge.merging.operators.sums.ties import Election
from evomerge.merging.operators.thresholds.sparsify import keep_l1


def dare_linear(inputs: Inputs) -> Sum:
    """Add the weighted sum of randomly thinned differences to the base."""
    settings = inputs.settings
    deltas = Deltas.of(inputs)
    thin = drop(settings, deltas, inputs.key, settings.numbers("density"))
    return Sum(deltas, *delta_factors(settings), thin)


def dare_ties(inputs: Inputs) -> Election:
    """Elect signs among randomly thinned differences and merge those who agree."""
    settings = inputs.settings
    deltas = Deltas.of(inputs)
    thin = drop(settings, deltas, inputs.key, settings.numbers("density"))
    return Election(deltas, thin, Rule.of(settings))


def mixout(inputs: Inputs) -> Sum:
    """Put the base back for a part of one input, chosen at random.

    Lee et al. 2019 (1909.11299); in expectation, or without rescaling by parts, it is
    the input mixed with the base. It is DARE of one input.
    """
    deltas = Deltas.of(inputs)
    keep = 1.0 - inputs.settings.number("p")
    thin = drop(inputs.settings, deltas, inputs.key, (keep,))
    return Sum(deltas, (1.0,), thin=thin)


def drop(
    settings: Settings, deltas: Deltas, key: str, densities: Sequence[float]
) -> Thin:
    """Return the random thinning that the settings ask for.

    Args:
        settings: Read for ``rescale``, ``unit`` and ``seed``.
        deltas: What to thin.
        key: Name of the tensor.
        densities: Probability to keep an entry, for each input.
    """
    masks = _Masks(settings, deltas, key, densities)
    rescale = settings.choice("rescale")
    inverse = rescale == "inverse"
    factors = [1.0 / d if inverse else 1.0 for d in densities]

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        if densities[index] < 1.0:
            delta.mul_(masks.mask(index, block).mul_(factors[index]))

    steps = masks.steps(factors)
    known = thin if steps is None else Steps(thin, steps)
    return keep_l1(deltas, known) if rescale == "l1" else known


class _Masks:
    """Which entries of each input's difference stay: 1.0, and which go: 0.0."""

    def __init__(
        self,
        settings: Settings,
        deltas: Deltas,
        key: str,
        densities: Sequence[float],
    ) -> None:
        self._densities = densities
        operation = settings.operation
        seed = settings.shared["seed"]
        self._keys = [
            stream_key(seed, operation.operator, name, key) for name in operation.inputs
        ]
        self._coins = Coins(len(deltas.scratch()), deltas.device)
        self._rows: list[torch.Tensor] = []
        if settings.choice("unit") == "column" and deltas.shape:
            self._rows = [self._row(index, deltas) for index in range(len(deltas))]

    def _row(self, index: int, deltas: Deltas) -> torch.Tensor:
        """Return the mask of an input's columns."""
        columns = deltas.shape[-1]
        coins = Coins(columns, deltas.device)
        return coins.flip(self._keys[index], slice(0, columns), self._densities[index])

    def steps(self, factors: Sequence[float]) -> tuple[Step, ...] | None:
        """Return what is done to each input; None where no compiled code does it."""
        if any(row.device.type != "cpu" for row in self._rows):
            return None
        return tuple(
            Step(coin=self._coin(index), factor=factor) if density < 1.0 else Step()
            for index, (density, factor) in enumerate(
                zip(self._densities, factors, strict=True)
            )
        )

    def _coin(self, index: int) -> Coin | ColumnCoin:
        if self._rows:
            return ColumnCoin(self._rows[index])
        return Coin(self._keys[index], share_of(self._densities[index]))

    def mask(self, index: int, block: slice) -> torch.Tensor:
        """Return the mask of a block, fp32; may be overwritten by the next call."""
        if not self._rows:
            return self._coins.flip(self._keys[index], block, self._densities[index])
        row = self._rows[index]
        first = block.start % len(row)
        n = block.stop - block.start
        rows = -(-(first + n) // len(row))
        return row.repeat(rows)[first : first + n]
