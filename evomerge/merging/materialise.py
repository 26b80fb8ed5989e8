"""From a recipe to a stream of merged tensors, one at a time.

The one materialiser: a live engine and the checkpoint writer read the same stream, so
what was scored is what is exported.
"""

from collections.abc import Iterator
from typing import Any

import torch

from evomerge.checkpoints import BUFFER
from evomerge.core.recipes.recipe import Recipe
from evomerge.merging.sources import Sources, Space
from evomerge.merging.views.merged import Merged
from evomerge.merging.views.stored import Where


def materialise(
    recipe: Recipe, sources: Sources, *, untie: bool = False, reuse: bool = False
) -> Iterator[tuple[str, torch.Tensor]]:
    """Merge tensor by tensor.

    Args:
        recipe: What to merge.
        sources: Where its inputs lie.
        untie: Give a tied result an output head of its own, equal to the embedding: for
            an engine whose head is a separate tensor.
        reuse: Write every tensor to the same memory: each is overwritten when the next
            is asked for.

    Yields:
        Name and merged tensor, on the sources' device, in the recipe's element type
        (buffers in their own): embedding, layers in order, final norm, head. Let go of
        a tensor before asking for the next: memory then stays bounded by one merge.

    Raises:
        RecipeError: The recipe does not fit its sources, or this version.
        CheckpointError: A source is missing, broken, or changed since it was recorded.
        CandidateError: A merged tensor is not finite; the message names it.
    """
    merged = Merged(recipe, sources)
    space: Space = sources.space if reuse else sources.fresh
    for where, name in _order(merged, untie=untie):
        yield merged.layout.full_name(where, name), merged.merge(where, name, space)


def describe(
    recipe: Recipe, sources: Sources
) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Tell element type and shape of every tensor ``materialise`` yields, in order.

    Raises:
        RecipeError: The recipe does not fit its sources, or this version.
        CheckpointError: A source is missing, broken, or changed since it was recorded.
    """
    merged = Merged(recipe, sources)
    out: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
    for where, name in _order(merged, untie=False):
        part = merged.section(where)[name]
        out[merged.layout.full_name(where, name)] = (part.dtype, part.shape)
    return out


def merged_tensors(
    recipe: Recipe, sources: Sources
) -> dict[Where, frozenset[tuple[str, str]]]:
    """Tell name and role of what is merged in every section; pieces by themselves."""
    merged = Merged(recipe, sources)
    sections: list[Where] = ["embed", *range(merged.n_layers), "head"]
    return {
        where: frozenset(
            (piece, part.role)
            for name, part in merged.section(where).items()
            if part.role != BUFFER
            for piece in [one.name for one in part.pieces] or [name]
        )
        for where in sections
    }


def merged_config(recipe: Recipe, sources: Sources) -> dict[str, Any]:
    """Return the merged model's ``config.json``.

    The frame's, with the number of layers, element type, tie flag and layer types of
    the merge.
    """
    return Merged(recipe, sources).config


def _order(merged: Merged, *, untie: bool) -> Iterator[tuple[Where, str]]:
    sections: list[Where] = ["embed", *range(merged.n_layers), "head"]
    for where in sections:
        for name in merged.section(where):
            yield where, name
    if untie and merged.tied:
        yield "head", merged.layout.head
