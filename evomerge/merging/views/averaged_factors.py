"""Adapters' factors averaged, all the A and all the B on their own, and folded then."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import torch

from evomerge.checkpoints.adapted import explain_unlike
from evomerge.checkpoints.adapters.adapter import Folding
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Recipe, Slot
from evomerge.core.recipes.settings import resolve
from evomerge.errors import RecipeError
from evomerge.merging.operators.sums.linear import shares
from evomerge.merging.views.adapted import AdaptedModel, LowRank
from evomerge.merging.views.stored import View, Where


@dataclass(frozen=True, slots=True)
class Tensor:
    """Where an input has a tensor."""

    view: View
    where: Where
    name: str


def works_on_factors(operation: Operation) -> bool:
    """Tell whether an operation averages factors and not tensors."""
    return resolve(operation).operator.factors_with == ()


def check_factors(
    operations: Iterable[Operation],
    recipe: Recipe,
    slot: Slot,
    views: Mapping[str, View],
) -> None:
    """Make sure that the factors that operations average can be.

    Args:
        operations: Those of a slot, averaging factors or not.
        recipe: What is merged.
        slot: Which layers of the inputs are merged.
        views: Its inputs, by name.

    Raises:
        RecipeError: An input is not the same model with an adapter as the others, its
            factors have other shapes, or another layer of it is merged.
    """

    def folding(name: str) -> Folding:
        view = views[name]
        assert isinstance(view, AdaptedModel)
        return view.folding

    for operation in {one for one in operations if works_on_factors(one)}:
        inputs = {name: recipe.input(name) for name in operation.inputs}
        if said := explain_unlike(inputs, folding):
            raise RecipeError(
                f"Operator {operation.operator!r} averages factors of one model's "
                f"adapters: {' '.join(said)} Average what adapters add with 'linear'."
            )
        layers = {layer for name, layer in slot.layers if name in operation.inputs}
        if len(layers) > 1:
            raise RecipeError(
                f"Operator {operation.operator!r} averages factors of one layer, but "
                f"is given layers {sorted(layers)}. Take the same layer of every "
                "input, or average what adapters add with 'linear'."
            )


def merge_factors(
    operation: Operation, find: Callable[[str], Tensor], key: str
) -> torch.Tensor | None:
    """Merge a tensor by what adapters add to it, if the operation does that.

    Args:
        operation: What to do; checked by :func:`check_factors`.
        find: Tells where an input has the tensor.
        key: What messages call it.

    Returns:
        A tensor that may be the base's own; None if the operation works on tensors, or
        an adapter replaces this one.

    Raises:
        CandidateError: The weights sum to zero.
        CheckpointError: An adapter holds NaN or infinity there.
    """
    if not works_on_factors(operation):
        return None
    changes: list[LowRank] = []
    for one in map(find, operation.inputs):
        assert isinstance(one.view, AdaptedModel)
        change = one.view.change(one.where, one.name)
        if change is None:
            return None
        changes.append(change)
    return average_factors(changes, shares(resolve(operation), key))


def average_factors(
    changes: Sequence[LowRank], weights: Sequence[float]
) -> torch.Tensor:
    """Average the factors of adapters of one model, each kind on its own.

    ``W + (sum w_i sqrt(s_i) B_i) (sum w_i sqrt(s_i) A_i)``: where all have one scale
    ``s``, what the authors of rewarded soups (Rame et al. 2023, 2306.04488) and LoraHub
    (Huang et al. 2023, 2307.13269) do. It depends on the basis that each pair is
    written in; an average of what the adapters add does not.

    Args:
        changes: Of one tensor, one for each adapter; factors of one shape.
        weights: One for each adapter.

    Returns:
        fp32, or the base itself where no adapter changes it.
    """
    lefts: list[torch.Tensor] = []
    rights: list[torch.Tensor] = []
    for change, weight in zip(changes, weights, strict=True):
        if change.factors is not None:
            left, right = change.factors
            root = math.sqrt(abs(change.scale))
            lefts.append(left * (weight * math.copysign(root, change.scale)))
            rights.append(right * (weight * root))
    factors = (torch.stack(lefts).sum(0), torch.stack(rights).sum(0)) if lefts else None
    return LowRank(changes[0].base, factors).folded()
