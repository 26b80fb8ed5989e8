"""A swap into an engine of the stack profile: only what it does not hold is merged.

The part that every kind of engine shares. The engine itself knows how to write a slot
and how to run the slots in an order: it is a ``LayerSlots``.
"""

from __future__ import annotations

from collections.abc import Sequence
from time import perf_counter
from typing import Protocol

import torch

from evomerge.core.recipes.layer_keys import LayerKeys
from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import CandidateError
from evomerge.merging.materialise import Sections
from evomerge.merging.sources import Sources
from evomerge.merging.views.merged import Merged
from evomerge.merging.views.stored import Stored, View, Where
from evomerge.scoring.engine import SwapReport
from evomerge.scoring.stacks.slots import FULL, Place, SlotCache
from evomerge.scoring.weight_stream import WeightStream


class LayerSlots(Protocol):
    """The layers of a living model, as slots."""

    @property
    def kinds(self) -> Sequence[str]:
        """The kind of attention in each slot."""

    @property
    def keeps(self) -> bool:
        """Whether a tensor is needed after the next one is asked for."""

    def write(self, incoming: WeightStream, targets: Sequence[Where]) -> None:
        """Overwrite slots, the embedding or the head, in place.

        Args:
            incoming: Tensors by the names that the model gives its own.
            targets: What they belong to; each is written wholly.

        Raises:
            CandidateError: A tensor does not fit, or one is missing.
        """

    def arrange(self, places: Sequence[Place]) -> None:
        """Run these slots in this order from now on."""


class StackSwap:
    """What an engine holds, and how a recipe gets into it."""

    def __init__(
        self, rack: LayerSlots, sources: Sources, frame: str, dtype: torch.dtype
    ) -> None:
        """Begin with an engine that holds nothing.

        Args:
            rack: The engine's layers.
            sources: Where parents lie.
            frame: Fingerprint of what the engine was started from.
            dtype: The engine's element type.
        """
        self._rack = rack
        self._sources = sources
        self._frame = frame
        self._dtype = dtype
        self._sections = Sections(sources)
        self._view = Stored(sources, frame)
        self._shelf = SlotCache(rack.kinds)
        self._ends: dict[Where, str] = {}

    def swap(self, recipe: Recipe) -> SwapReport:
        """Bring a recipe in, writing only what is not held, and run its stack.

        Raises:
            RecipeError: The recipe does not fit its sources.
            CheckpointError: A source cannot be read.
            CandidateError: The merged weights are not finite, do not fit the frame, or
                are more layers than the engine has slots.
        """
        started = perf_counter()
        contents = LayerKeys.of(recipe)
        places = self._shelf.missing(contents.layers)
        ends: dict[Where, str] = {"embed": contents.embed, "head": contents.head}
        new_ends = [
            where for where, key in ends.items() if self._ends.get(where) != key
        ]
        waited, size = 0.0, 0
        if places or new_ends:
            opened = perf_counter()
            merged = Merged(recipe, self._sources, scaled=True)
            waited = perf_counter() - opened
            self._check_fit(merged, [*places, *new_ends])
            slots = self._choose(contents, places, merged)
            self._forget(slots, new_ends)
            incoming = self._incoming(merged, slots, new_ends)
            self._rack.write(incoming, [*slots.values(), *new_ends])
            self._hold(contents, slots, ends)
            waited += incoming.materialise_s
            size = incoming.size_bytes
        scales = [slot.scale for slot in recipe.slots]
        self._rack.arrange(self._shelf.arrange(contents.layers, scales))
        return SwapReport(waited, perf_counter() - started - waited, size)

    def _check_fit(self, merged: Merged, sections: Sequence[Where]) -> None:
        """Make sure that sections have the tensors that the frame's have."""
        layout = self._view.layout
        own = [kind.attention or FULL for kind in self._view.layer_types]
        types = merged.layer_types
        for where in sections:
            kind = types[where].attention or FULL if isinstance(where, int) else FULL
            alike = own.index(kind) if kind in own else 0
            ours = _shapes(self._view, alike if isinstance(where, int) else where)
            theirs = _shapes(merged, where)
            ours.pop(layout.head, None)
            theirs.pop(merged.layout.head, None)
            for name in sorted(ours.keys() | theirs.keys()):
                if ours.get(name) != theirs.get(name):
                    full = layout.full_name(where, name)
                    raise CandidateError(
                        f"{full} is {theirs.get(name)} in the merge, but "
                        f"{ours.get(name)} in the frame. Stack layers of models of "
                        "one shape."
                    )

    def _choose(
        self, contents: LayerKeys, places: Sequence[int], merged: Merged
    ) -> dict[int, int]:
        if len(contents.layers) > len(self._shelf.kinds):
            raise CandidateError(
                f"A stack of {len(contents.layers)} layers does not fit into the "
                f"engine's {len(self._shelf.kinds)} slots. Raise engine.slots."
            )
        types = merged.layer_types
        kinds = {place: types[place].attention or FULL for place in places}
        return self._shelf.choose(contents.layers, kinds)

    def _incoming(
        self, merged: Merged, slots: dict[int, int], ends: Sequence[Where]
    ) -> WeightStream:
        model = self._sources.model(self._frame)
        wanted: list[tuple[Where, Where]] = [*slots.items()]
        wanted += [(where, where) for where in ends]
        stream = self._sections.merge(
            merged, wanted, untie=not model.tied, reuse=not self._rack.keeps
        )
        return WeightStream(
            stream, self._dtype, tied=model.tied, head=model.layout.head
        )

    def _forget(self, slots: dict[int, int], ends: Sequence[Where]) -> None:
        """Whatever goes wrong while these are written, they hold nothing known."""
        self._shelf.forget(list(slots.values()))
        for where in ends:
            self._ends.pop(where, None)

    def _hold(
        self, contents: LayerKeys, slots: dict[int, int], ends: dict[Where, str]
    ) -> None:
        for place, slot in slots.items():
            self._shelf.hold(slot, contents.layers[place])
        self._ends = ends


def _shapes(view: View, where: Where) -> dict[str, tuple[int, ...]]:
    return {name: part.shape for name, part in view.section(where).items()}
