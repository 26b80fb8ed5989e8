"""From a recipe to a stream of merged tensors, one at a time.

The one materialiser: a live engine and the checkpoint writer read the same stream, so
what was scored is what is exported.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

import torch

from evomerge.checkpoints import BUFFER
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Checkpoint, Recipe
from evomerge.core.recipes.settings import resolve
from evomerge.merging.sources import Sources, Space
from evomerge.merging.views.merged import Merged
from evomerge.merging.views.stored import View, Where


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
    sections: list[Where] = ["embed", *range(merged.n_layers), "head", "beside"]
    for where in sections:
        for name in merged.section(where):
            yield where, name
    if untie and merged.tied:
        yield "head", merged.layout.head


class Sections:
    """Merges sections of recipes, one recipe after another.

    A layer that is taken over whole is merged the first time, which proves it finite;
    from then on its tensors are handed out as they are stored, without a copy.
    """

    def __init__(self, sources: Sources) -> None:
        """Remember where the recipes' inputs lie."""
        self._sources = sources
        self._finite: set[tuple[str, int, str]] = set()

    def merge(
        self,
        merged: Merged,
        places: Iterable[tuple[Where, Where]],
        *,
        untie: bool = False,
        reuse: bool = False,
    ) -> Iterator[tuple[str, torch.Tensor]]:
        """Merge the tensors of some sections, one at a time.

        Args:
            merged: The recipe, opened with the same sources.
            places: Each section, and the section its tensors are named for: layer 3 may
                be written to slot 0.
            untie: Give a tied result an output head of its own, with its section.
            reuse: Write every merged tensor to the same memory.

        Yields:
            Name and tensor, as ``materialise`` gives them; never write into it.

        Raises:
            CheckpointError: A source changed since it was recorded.
            CandidateError: A merged tensor is not finite; the message names it.
        """
        space = self._sources.space if reuse else self._sources.fresh
        for where, target in places:
            whole = _whole_layer(merged.recipe, where)
            for name in merged.section(where):
                wanted = merged.section(where)[name].dtype
                found = None if whole is None else self._stored(*whole, name, wanted)
                if found is None:
                    found = merged.merge(where, name, space)
                if whole is not None:
                    self._finite.add((*whole, name))
                yield merged.layout.full_name(target, name), found
            if where == "head" and untie and merged.tied:
                name = merged.layout.head
                yield name, merged.merge(where, name, space)

    def _stored(
        self, fingerprint: str, layer: int, name: str, dtype: torch.dtype
    ) -> torch.Tensor | None:
        """Return a tensor as stored, unless it must be looked at or converted."""
        if (fingerprint, layer, name) not in self._finite:
            return None
        view: View = self._sources.views[fingerprint]  # opened with the recipe
        part = view.section(layer)[name]
        if part.role == BUFFER or part.dtype != dtype:
            return None
        return view.read(layer, name)


def _whole_layer(recipe: Recipe, where: Where) -> tuple[str, int] | None:
    """Return whose layer, and which, a slot takes over as it is."""
    if not isinstance(where, int):
        return None
    slot = recipe.slots[where]
    operations = {operation for _, operation in slot.roles}
    first = next(iter(operations))
    source = recipe.input(first.inputs[0])
    if len(operations) > 1 or not isinstance(source, Checkpoint):
        return None
    if not _is_copy(first):
        return None
    return source.fingerprint, slot.layer_of(first.inputs[0])


def _is_copy(operation: Operation) -> bool:
    if operation.operator != "linear" or len(operation.inputs) != 1:
        return False
    return resolve(operation).numbers("weight") == (1.0,)
