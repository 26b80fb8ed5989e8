"""A recipe seen as a model: every tensor is merged when it is read.

Everything that can be refused is refused when the recipe is opened, before the first
tensor: an engine is not left half overwritten by a mistake in a recipe.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from evomerge.checkpoints import BUFFER, EMBED_WEIGHT, HEAD_WEIGHT
from evomerge.core.recipe import Checkpoint, Input, Nested, Operation, Recipe, Slot
from evomerge.core.settings import resolve
from evomerge.errors import CandidateError, RecipeError
from evomerge.merging.inputs import Part, Stored, View, Where, full_name
from evomerge.merging.operators import apply
from evomerge.merging.sources import Sources, is_finite


class Merged:
    """A recipe as a view: every read merges one tensor."""

    def __init__(self, recipe: Recipe, sources: Sources) -> None:
        """Check the recipe against its sources.

        Raises:
            RecipeError: It needs what this version does not have, names a layer that an
                input lacks, or its inputs are not of one architecture.
            CheckpointError: A source cannot be opened.
        """
        self.recipe = recipe
        self.n_layers = len(recipe.slots)
        self._dtype: torch.dtype = getattr(torch, recipe.dtype)
        self._views: dict[str, View] = {
            name: _open(name, source, sources) for name, source in recipe.inputs
        }
        self.tied = self._is_tied()
        self._slots: dict[Where, Slot] = dict(enumerate(recipe.slots))
        self._slots |= {"embed": recipe.embed, "head": recipe.head}
        self._sections = {
            where: self._merge_section(where, slot)
            for where, slot in self._slots.items()
        }

    @property
    def config(self) -> dict[str, Any]:
        """The frame's configuration, rewritten where the merge differs from it."""
        config = self._views[self.recipe.frame].config
        config["num_hidden_layers"] = self.n_layers
        config["tie_word_embeddings"] = self.tied
        config["torch_dtype" if "torch_dtype" in config else "dtype"] = (
            self.recipe.dtype
        )
        if isinstance(config.get("layer_types"), list):
            config["layer_types"] = [
                self._layer_types(slot) for slot in self.recipe.slots
            ]
        # Code of its own does not travel with the weights.
        config.pop("auto_map", None)
        return config

    def section(self, where: Where) -> Mapping[str, Part]:
        """Return the tensors of a section by their names within it."""
        return self._sections[where]

    def key(self, where: Where, name: str) -> str:
        """Return the first input's key: a repeated layer draws the same masks."""
        slot = self._slots[where]
        operation = slot.operation(self._role(where, name), name)
        return self._key(where, name, slot, operation)

    def read(self, where: Where, name: str) -> torch.Tensor:
        """Merge a tensor.

        Returns:
            A tensor in the recipe's type (buffers in their own) that the caller owns.

        Raises:
            RecipeError: The operation breaks the catalogue's rules, or shapes differ.
            CandidateError: The result is not finite.
        """
        if where == "head" and name == HEAD_WEIGHT and self.tied:
            where, name = "embed", EMBED_WEIGHT
        slot, role = self._slots[where], self._role(where, name)
        if role == BUFFER:
            view, place = self._template(where, slot)
            return view.read(place, name).clone()
        operation = slot.operation(role, name)
        base = operation.base
        merged = apply(
            operation,
            [self._read(where, name, slot, i) for i in operation.inputs],
            None if base is None else self._read(where, name, slot, base),
            self._key(where, name, slot, operation),
        ).to(self._dtype)
        expected = self._sections[where][name].shape
        if merged.shape != expected:
            raise RecipeError(
                f"{full_name(where, name)}: the frame has shape {list(expected)}, but "
                f"the inputs {list(operation.inputs)} have {list(merged.shape)}. Merge "
                "models of one shape."
            )
        if not is_finite(merged):
            raise CandidateError(self._explain(where, name, operation, merged))
        return merged

    def _read(self, where: Where, name: str, slot: Slot, source: str) -> torch.Tensor:
        return self._views[source].read(_fed(where, slot, source), name)

    def _key(self, where: Where, name: str, slot: Slot, operation: Operation) -> str:
        if name == HEAD_WEIGHT:
            return HEAD_WEIGHT
        first = operation.inputs[0]
        return self._views[first].key(_fed(where, slot, first), name)

    def _role(self, where: Where, name: str) -> str:
        return self._sections[where][name].role

    def _template(self, where: Where, slot: Slot) -> tuple[View, Where]:
        """Return whose section gives the names: the frame's where it feeds the slot."""
        name = self.recipe.frame
        if isinstance(where, int) and name not in dict(slot.layers):
            name = slot.layers[0][0]
        return self._views[name], _fed(where, slot, name)

    def _is_tied(self) -> bool:
        """Tied only if every input that shapes the embedding or the head is."""
        recipe = self.recipe
        operations = [
            op for slot in (recipe.embed, recipe.head) for _, op in slot.roles
        ]
        read = {name for operation in operations for name in operation.reads}
        return all(self._views[name].tied for name in read)

    def _merge_section(self, where: Where, slot: Slot) -> dict[str, Part]:
        self._check_slot(where, slot)
        view, place = self._template(where, slot)
        parts = {
            name: part
            if part.role == BUFFER
            else Part(part.role, part.shape, self._dtype)
            for name, part in view.section(place).items()
            if name != HEAD_WEIGHT
        }
        if where == "head" and not self.tied:
            shape = view.section("embed")[EMBED_WEIGHT].shape
            parts[HEAD_WEIGHT] = Part("head", shape, self._dtype)
        for name, part in parts.items():
            if part.role != BUFFER:
                resolve(slot.operation(part.role, name))
        return parts

    def _check_slot(self, where: Where, slot: Slot) -> None:
        if slot.scale != 1.0:
            raise RecipeError(
                f"Slot {where} scales its input by {slot.scale!r}; this version can "
                "write no such model. Use a scale of 1."
            )
        fed = (
            dict(slot.layers)
            if isinstance(where, int)
            else dict.fromkeys(
                {name for _, operation in slot.roles for name in operation.reads}, 0
            )
        )
        if isinstance(where, int) and not fed:
            raise RecipeError(f"Slot {where} names no layer of any input.")
        for name, layer in fed.items():
            if not 0 <= layer < self._views[name].n_layers:
                raise RecipeError(
                    f"Slot {where} asks for layer {layer} of input {name!r}, which has "
                    f"{self._views[name].n_layers} (0 to "
                    f"{self._views[name].n_layers - 1})."
                )
        view, place = self._template(where, slot)
        wanted = view.section(place).keys() - {HEAD_WEIGHT}
        for name in fed:
            found = self._views[name].section(_fed(where, slot, name)).keys()
            if odd := sorted(wanted ^ (found - {HEAD_WEIGHT})):
                raise RecipeError(
                    f"Slot {where}: input {name!r} and the frame do not have the same "
                    f"tensors, for example {odd[0]!r}. Merge models of one "
                    "architecture."
                )

    def _layer_types(self, slot: Slot) -> Any:
        name = self.recipe.frame if self.recipe.frame in dict(slot.layers) else None
        name = name or slot.layers[0][0]
        return self._views[name].config["layer_types"][slot.layer_of(name)]

    def _explain(
        self, where: Where, name: str, operation: Operation, merged: torch.Tensor
    ) -> str:
        bad = int((~torch.isfinite(merged)).sum())
        return (
            f"Merged tensor {full_name(where, name)!r} is not finite: {bad} of "
            f"{merged.numel()} entries are NaN or too large for {self.recipe.dtype}, "
            f"from operator {operation.operator!r} over {list(operation.inputs)}."
        )


def _open(name: str, source: Input, sources: Sources) -> View:
    if isinstance(source, Checkpoint):
        found = sources.views.get(source.fingerprint)
        if found is None:
            found = Stored(sources, source.fingerprint)
            sources.views[source.fingerprint] = found
        sources.check_unchanged(source.fingerprint)
        return found
    if isinstance(source, Nested):
        return Merged(source.recipe, sources)
    what = type(source).__name__.lower()
    raise RecipeError(
        f"Input {name!r} is {what}; this version merges only checkpoints and nested "
        "recipes. Write the adapted or transformed model to a folder first."
    )


def _fed(where: Where, slot: Slot, source: str) -> Where:
    """Return which section of an input feeds a section of the merge."""
    return slot.layer_of(source) if isinstance(where, int) else where
