"""Scales on layers' inputs, written into the weights of a merge."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from evomerge.checkpoints.foldable import Fold, folds_of
from evomerge.core.recipes.recipe import Recipe
from evomerge.merging.views.stored import Part, Where


def recipe_folds(
    recipe: Recipe,
    config: Mapping[str, Any],
    sections: Mapping[Where, Mapping[str, Part]],
) -> dict[tuple[Where, str], Fold]:
    """Tell which tensors of a merge change for its scales, by section and name.

    Raises:
        RecipeError: The scales do not fold exactly.
    """
    places: Sequence[int] = range(len(recipe.slots))
    layers = [{n: part.role for n, part in sections[i].items()} for i in places]
    scales = [slot.scale for slot in recipe.slots]
    folds = folds_of(config, layers, scales, recipe.dtype)
    return {(i, name): fold for i in places for name, fold in folds[i].items()}


def fold_into(out: torch.Tensor, wide: torch.Tensor, fold: Fold) -> None:
    """Write a tensor changed for the scales; it is rounded once.

    Args:
        out: Written into.
        wide: The merged tensor in float32; used up.
        fold: What becomes of it.
    """
    if fold.shift:
        wide.add_(fold.shift).mul_(fold.factor).sub_(fold.shift)
    else:
        wide.mul_(fold.factor)
    out.copy_(wide)
