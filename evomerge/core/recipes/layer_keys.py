"""What each part of a merge holds, as keys: equal keys, equal weights.

Engines that keep many layers at once compare keys to find out what they hold already.
A key follows from the recipe alone. It does not depend on what the recipe calls its
inputs, on the place of a layer in the stack, or on its scale.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.core.digest import digest
from evomerge.core.recipes.operation import Operation
from evomerge.core.recipes.recipe import Recipe, Slot


@dataclass(frozen=True, slots=True)
class LayerKeys:
    """Keys of the parts of one recipe.

    Attributes:
        embed: Of the embedding.
        layers: Of each layer, first to last; a repeated layer has the same key.
        head: Of the final norm and the output head, which may be the embedding.
    """

    embed: str
    layers: tuple[str, ...]
    head: str

    @classmethod
    def of(cls, recipe: Recipe) -> LayerKeys:
        """Work out the keys of a recipe."""
        recipe = recipe.computed
        inputs = {name: digest(source.to_json()) for name, source in recipe.inputs}
        known: dict[Slot, str] = {}

        def key(slot: Slot) -> str:
            if slot not in known:
                known[slot] = _key(slot, inputs, recipe)
            return known[slot]

        embed = key(recipe.embed)
        # A tied head is made of the embedding, and so is that of a tied input.
        head = digest([embed, key(recipe.head)])
        return cls(embed, tuple(key(slot) for slot in recipe.slots), head)


def _key(slot: Slot, inputs: Mapping[str, str], recipe: Recipe) -> str:
    return digest(
        {
            "dtype": recipe.dtype,
            **({"fused": True} if recipe.fused else {}),
            "like": inputs[slot.shaped_like(recipe.frame)],
            "layers": sorted([inputs[name], layer] for name, layer in slot.layers),
            "roles": {role: _plain(one, inputs) for role, one in slot.roles},
        }
    )


def _plain(operation: Operation, inputs: Mapping[str, str]) -> dict[str, Any]:
    out = operation.to_json()
    out["inputs"] = [inputs[name] for name in operation.inputs]
    if operation.base is not None:
        out["base"] = inputs[operation.base]
    return out
