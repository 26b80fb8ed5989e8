"""What a merged model is beside its weights: its frame, and what the merge changes.

Scales on layers' inputs are no part of a configuration: they are folded into weights.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch

from evomerge.checkpoints import BUFFER, LayerType, Layout, restacked
from evomerge.checkpoints.configs.nested import decoder_config, with_decoder
from evomerge.checkpoints.foldable import Fold, folds_of
from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import CheckpointError, RecipeError
from evomerge.merging.views.stored import Part, View, Where


def is_tied(recipe: Recipe, views: Mapping[str, View]) -> bool:
    """Tell whether the head is the embedding: in every input that shapes either."""
    return all(views[name].tied for name in recipe.embed.reads | recipe.head.reads)


def layout_of(recipe: Recipe, views: Mapping[str, View]) -> Layout:
    """Return the frame's names; a tied frame has no head to be named by."""
    frame = views[recipe.frame]
    untied = [views[name] for name in sorted(views) if not views[name].tied]
    if frame.tied and untied:
        return replace(frame.layout, head=untied[0].layout.head)
    return frame.layout


def usual_type(sections: Iterable[Mapping[str, Part]]) -> str:
    """Return the element type that most of the merged weights have."""
    sizes: Counter[str] = Counter()
    for section in sections:
        for part in section.values():
            if part.role != BUFFER:
                word = str(part.dtype).removeprefix("torch.")
                sizes[word] += math.prod(part.shape)
    return sizes.most_common(1)[0][0]


def rewritten(
    frame: Mapping[str, Any],
    layers: Sequence[tuple[dict[str, Any], int, LayerType]],
    *,
    tied: bool | None,
    dtype: str,
) -> dict[str, Any]:
    """Return the frame's configuration as the merged model needs it.

    Args:
        frame: The frame's.
        layers: Whose configuration, index and type each layer of the merge has.
        tied: The head is the embedding; None if there is no head.
        dtype: Element type of the weights.

    Raises:
        RecipeError: The layers make no model that the frame's family can express.
    """
    inner = [(decoder_config(config), i, kind) for config, i, kind in layers]
    decoder = decoder_config(frame)
    if not any(kind.stack for _, _, kind in layers):
        try:
            decoder = restacked(decoder, inner)
        except CheckpointError as error:
            raise RecipeError(str(error)) from error
    if tied is not None:
        decoder["tie_word_embeddings"] = tied
    for key in ("torch_dtype", "dtype"):
        if key in decoder:
            decoder[key] = dtype
    config = with_decoder(frame, decoder)
    if tied is not None:
        config["tie_word_embeddings"] = tied
    config["torch_dtype" if "torch_dtype" in config else "dtype"] = dtype
    # Code of its own does not travel with the weights.
    config.pop("auto_map", None)
    return config


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
