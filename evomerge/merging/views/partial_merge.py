"""Some sections of a merge, for an engine that holds the others already."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import torch

from evomerge.checkpoints import BUFFER
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Checkpoint, Recipe
from evomerge.core.recipes.settings import resolve
from evomerge.merging.sources import Sources
from evomerge.merging.views.merged import Merged
from evomerge.merging.views.stored import View, Where


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
