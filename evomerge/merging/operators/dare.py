"""DARE (Yu et al. 2023): drop differences at random and rescale the rest.

The mask of an entry depends on the seed, the operator, the input's name, the tensor's
key and the entry's place, and on nothing else.
"""

from collections.abc import Sequence

import torch

from evomerge.core.settings import Settings
from evomerge.merging.operators.blocks import Deltas
from evomerge.merging.operators.consensus import Rule, agree
from evomerge.merging.operators.counter import Coins, stream_key
from evomerge.merging.operators.linear import Thin, add_deltas, delta_factors


def dare_linear(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Add the weighted sum of randomly thinned differences to the base."""
    assert base is not None
    deltas = Deltas(tensors, base)
    return add_deltas(deltas, delta_factors(settings), drop(settings, deltas, key))


def dare_ties(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Elect signs among randomly thinned differences and merge those who agree."""
    assert base is not None
    deltas = Deltas(tensors, base)
    rule = Rule(
        settings.numbers("weight"),
        settings.number("lambda"),
        normalize=settings.flag("normalize"),
    )
    return agree(deltas, drop(settings, deltas, key), rule)


def drop(settings: Settings, deltas: Deltas, key: str) -> Thin:
    """Return the random thinning that the settings ask for."""
    masks = _Masks(settings, deltas, key)
    rescale = settings.choice("rescale")
    factors = [1.0] * len(deltas)
    if rescale == "inverse":
        factors = [1.0 / density for density in masks.densities]
    elif rescale == "l1":
        factors = [_l1_factor(deltas, masks, index) for index in range(len(deltas))]

    def thin(index: int, block: slice, delta: torch.Tensor) -> None:
        if masks.densities[index] < 1.0:
            delta.mul_(masks.mask(index, block).mul_(factors[index]))

    return thin


class _Masks:
    """Which entries of each input's difference stay: 1.0, and which go: 0.0."""

    def __init__(self, settings: Settings, deltas: Deltas, key: str) -> None:
        self.densities = settings.numbers("density")
        operation = settings.operation
        seed = settings.shared["seed"]
        self._keys = [
            stream_key(seed, operation.operator, name, key) for name in operation.inputs
        ]
        self._columns = 0
        longest = len(deltas.scratch())
        if settings.choice("unit") == "column" and deltas.shape:
            self._columns = longest = deltas.shape[-1]
        self._coins = Coins(longest, deltas.device)

    def mask(self, index: int, block: slice) -> torch.Tensor:
        """Return the mask of a block, fp32; may be overwritten by the next call."""
        key, density = self._keys[index], self.densities[index]
        if not self._columns:
            return self._coins.flip(key, block, density)
        row = self._coins.flip(key, slice(0, self._columns), density)
        first = block.start % self._columns
        n = block.stop - block.start
        rows = -(-(first + n) // self._columns)
        return row.repeat(rows)[first : first + n]


def _l1_factor(deltas: Deltas, masks: _Masks, index: int) -> float:
    """Return by what the kept entries grow so that their L1 norm is the whole one's."""
    if masks.densities[index] >= 1.0:
        return 1.0
    sums = torch.zeros(2, dtype=torch.float64, device=deltas.device)
    space = deltas.scratch()
    for block in deltas.blocks():
        sizes = deltas.read(index, block, deltas.base(block), space).abs_()
        sums[0] += sizes.sum(dtype=torch.float64)
        sums[1] += sizes.mul_(masks.mask(index, block)).sum(dtype=torch.float64)
    whole, kept = sums.tolist()
    return whole / kept if kept > 0 else 1.0
