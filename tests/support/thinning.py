"""What thins one input, carried out by single steps."""

import torch

from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.settings import resolve
from evomerge.merging.constants import CERTAIN
from evomerge.merging.form import Given, PerEntry, Step
from evomerge.merging.operators.executors.formulas import chance, left
from evomerge.merging.operators.executors.steps import Block
from evomerge.merging.operators.loops.blocks import Deltas
from evomerge.merging.operators.sums.della import coin


def left_of(
    deltas: Deltas, step: Step, values: torch.Tensor, block: slice | None = None
) -> torch.Tensor:
    """Return what a step leaves of a block of differences; of all, if none is given."""
    return left(step, values, Block(deltas).at(block or slice(0, deltas.n)))


def keep_probabilities(
    operation: Operation, deltas: Deltas, index: int, delta: torch.Tensor
) -> torch.Tensor:
    """Return with which probability DELLA keeps the entries of one input, flat."""
    found = coin(resolve(operation), deltas, "w", index)
    place = Block(deltas).at(slice(0, deltas.n))
    return chance(found, delta.reshape(-1), place) / CERTAIN


def masked(mask: torch.Tensor) -> Step:
    """Return the step that multiplies by a mask."""
    return Step(coin=Given(PerEntry(mask.reshape(-1))))
