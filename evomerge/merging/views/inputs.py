"""Inputs of a recipe as views, which of their layers feed a slot, and if they fit."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import reduce

import torch

from evomerge.checkpoints import BUFFER
from evomerge.core.recipes.recipe import (
    STORED,
    Adapted,
    Checkpoint,
    Input,
    Nested,
    Recipe,
    Slot,
)
from evomerge.errors import RecipeError
from evomerge.merging.sources import Sources
from evomerge.merging.views.adapted import open_adapted
from evomerge.merging.views.revocabulated import open_transformed
from evomerge.merging.views.stored import Part, Stored, View, Where

Merging = Callable[[Recipe, Sources], View]
"""Opens a recipe as a view."""


def open_view(source: Input, sources: Sources, merging: Merging) -> View:
    """Return an input as a view.

    Args:
        source: The input.
        sources: Where models lie.
        merging: Opens the inputs that are recipes.

    Raises:
        RecipeError: It is a recipe, or made by one, that does not fit its inputs.
        CheckpointError: A model cannot be opened.
    """
    if isinstance(source, Checkpoint):
        found = sources.views.get(source.fingerprint)
        if found is None:
            found = Stored(sources, source.fingerprint)
            sources.views[source.fingerprint] = found
        sources.check_unchanged(source.fingerprint)
        return found
    if isinstance(source, Adapted):
        return open_adapted(source, sources)
    if isinstance(source, Nested):
        return merging(source.recipe, sources)
    return open_transformed(
        source, sources, lambda one: open_view(one, sources, merging)
    )


@dataclass(frozen=True, slots=True)
class Feed:
    """What feeds a section of a merge.

    Attributes:
        where: The section.
        slot: How it is merged.
        views: Every input of the recipe, by name.
        like: Name of the input whose section gives the tensors' names and the layer's
            type: the frame where it feeds the section.
    """

    where: Where
    slot: Slot
    views: Mapping[str, View]
    like: str

    @classmethod
    def of(
        cls, where: Where, slot: Slot, views: Mapping[str, View], frame: str
    ) -> Feed:
        """Find what feeds a section, and make sure that it fits together.

        Raises:
            RecipeError: It names a layer that an input lacks, scales what is no layer,
                or its inputs differ in tensors or shapes.
        """
        _check_slot(where, slot, views)
        fed = dict(slot.layers)
        feed = cls(where, slot, views, slot.shaped_like(frame))
        for name in fed if isinstance(where, int) else sorted(slot.reads):
            feed._check(name)
        return feed

    @property
    def view(self) -> View:
        """The input whose section gives the names."""
        return self.views[self.like]

    def place(self, name: str) -> Where:
        """Return which section of an input feeds this one."""
        return self.slot.layer_of(name) if isinstance(self.where, int) else self.where

    def parts(self, name: str) -> dict[str, Part]:
        """Return what an input gives, without its head: only one of two may tie it."""
        view = self.views[name]
        head = view.layout.head if self.where == "head" else None
        found = view.section(self.place(name))
        return {self._ours(name, n): part for n, part in found.items() if n != head}

    def name_in(self, name: str, tensor: str) -> str:
        """Return what an input calls a tensor that the section has."""
        if self.where not in ("embed", "head"):
            return tensor
        return self.view.layout.name_in(self.views[name].layout, tensor)

    def _ours(self, name: str, tensor: str) -> str:
        if self.where not in ("embed", "head"):
            return tensor
        return self.views[name].layout.name_in(self.view.layout, tensor)

    def element_type(
        self, wanted: str, tensor: str, part: Part, head: str
    ) -> torch.dtype:
        """Return the element type that a tensor of the section is merged to.

        Args:
            wanted: By the recipe. ``stored`` takes the type that holds those of all
                that the tensor is merged from, of which float64 is read as float32.
            tensor: As the merge calls it.
            part: The tensor.
            head: What the merge calls its output head; inputs may call or tie theirs
                otherwise.
        """
        taken_over = (
            self.where == "beside" and len(self.slot.operation(part.role).reads) < 2
        )
        if wanted != STORED and not taken_over:
            found: torch.dtype = getattr(torch, wanted)
            return found
        names = [piece.name for piece in part.pieces] or [tensor]
        operations = {self.slot.operation(part.role, name) for name in names}
        read = sorted({name for one in operations for name in one.reads})
        types = [self._stored_type(name, tensor, head) for name in read]
        wide = reduce(torch.promote_types, types)
        return torch.float32 if wide == torch.float64 else wide

    def _stored_type(self, name: str, tensor: str, head: str) -> torch.dtype:
        view = self.views[name]
        found = view.section(self.place(name))
        tensor = view.layout.head if tensor == head else self.name_in(name, tensor)
        if tensor not in found:  # a tied head
            return view.section("embed")[view.layout.embed].dtype
        return found[tensor].dtype

    def carried(self) -> dict[str, Part]:
        """Return parts beside the decoder that are taken over as they are stored."""
        operations = dict(self.slot.roles)
        return {
            name: replace(part, role=BUFFER)
            for name, part in self.view.section(self.where).items()
            if part.role not in operations or not part.dtype.is_floating_point
        }

    def _check(self, name: str) -> None:
        wanted, found = self.merged_parts(self.like), self.merged_parts(name)
        if odd := sorted(wanted.keys() ^ found.keys()):
            raise RecipeError(
                f"{self._title}: input {name!r} and the frame do not have the same "
                f"tensors, for example {odd[0]!r}. Merge models of one architecture."
            )
        for tensor, part in wanted.items():
            theirs = found[tensor]
            if (part.shape, part.pieces) != (theirs.shape, theirs.pieces):
                full = self.view.layout.full_name(self.where, tensor)
                raise RecipeError(
                    f"{full}: the frame has shape {list(part.shape)} in "
                    f"{len(part.pieces) or 1} pieces, but input {name!r} has "
                    f"{list(theirs.shape)} in {len(theirs.pieces) or 1}. Merge models "
                    "of one shape."
                )

    def merged_parts(self, name: str) -> dict[str, Part]:
        """Return what an input gives, of parts beside the decoder those merged."""
        kinds = {kind for kind, _ in self.slot.roles}
        return {
            n: part
            for n, part in self.parts(name).items()
            if self.where != "beside" or part.role in kinds
        }

    @property
    def _title(self) -> str:
        return f"Slot {self.where}"


def _check_slot(where: Where, slot: Slot, views: Mapping[str, View]) -> None:
    if isinstance(where, int) and not slot.layers:
        raise RecipeError(f"Slot {where} names no layer of any input.")
    if not isinstance(where, int) and slot.scale != 1.0:
        raise RecipeError(
            f"Slot {where} has a scale of {slot.scale!r}, but only the inputs of "
            "layers are scaled. Put the scale on a layer."
        )
    for name, layer in slot.layers:
        n = views[name].n_layers
        if not 0 <= layer < n:
            raise RecipeError(
                f"Slot {where} asks for layer {layer} of input {name!r}, which has "
                f"{n} (0 to {n - 1})."
            )
