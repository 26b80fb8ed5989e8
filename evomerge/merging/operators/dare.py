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
from evomerge.merging.operators.sparsify import keep_l1


def dare_linear(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Add the weighted sum of randomly thinned differences to the base."""
    assert base is not None
    deltas = Deltas(tensors, base)
    thin = drop(settings, deltas, key, settings.numbers("density"))
    return add_deltas(deltas, delta_factors(settings), thin)


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
    return agree(deltas, drop(settings, deltas, key, settings.numbers("density")), rule)


def mixout(
    settings: Settings,
    tensors: Sequence[torch.Tensor],
    base: torch.Tensor | None,
    key: str,
) -> torch.Tensor:
    """Put the base back for a part of one input, chosen at random.

    Lee et al. 2019 (1909.11299); in expectation, or without rescaling by parts, it is
    the input mixed with the base. It is DARE of one input.
    """
    assert base is not None
    deltas = Deltas(tensors, base)
    keep = 1.0 - settings.number("p")
    return add_deltas(deltas, (1.0,), drop(settings, deltas, key, (keep,)))


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

    return keep_l1(deltas, thin) if rescale == "l1" else thin


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
        self._columns = 0
        longest = len(deltas.scratch())
        if settings.choice("unit") == "column" and deltas.shape:
            self._columns = longest = deltas.shape[-1]
        self._coins = Coins(longest, deltas.device)

    def mask(self, index: int, block: slice) -> torch.Tensor:
        """Return the mask of a block, fp32; may be overwritten by the next call."""
        key, density = self._keys[index], self._densities[index]
        if not self._columns:
            return self._coins.flip(key, block, density)
        row = self._coins.flip(key, slice(0, self._columns), density)
        first = block.start % self._columns
        n = block.stop - block.start
        rows = -(-(first + n) // self._columns)
        return row.repeat(rows)[first : first + n]
