"""Recipes as text: forms that :func:`evomerge.specs.recipes.open_recipe` reads."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from evomerge.checkpoints import Model
from evomerge.core.recipes.recipe import Recipe, Slot, Transformed
from evomerge.specs.sources import whereabouts


def own_text(
    recipe: Recipe, models: Mapping[str, Model], allow: Sequence[str] = ()
) -> str:
    """Write a recipe in the canonical form, as YAML with ``paths`` beside it.

    So are the kinds of differences between its models that are allowed, if any.

    Operations that serve several slots are written once.
    """
    names = {name for name, _ in recipe.inputs}
    for _, source in recipe.inputs:
        if isinstance(source, Transformed):
            names |= {name for name, _ in source.among}
    names |= {name for name in models if "/" in name}  # what merges within it read
    paths = {name: whereabouts(models[name]) for name in sorted(names & models.keys())}
    known: dict[Any, dict[str, Any]] = {}
    data = recipe.to_json() | {
        "paths": paths,
        "embed": _slot(recipe.embed, known),
        "slots": [_slot(slot, known) for slot in recipe.slots],
        "head": _slot(recipe.head, known),
    }
    order = (
        *("version", "fused", "paths", "allow", "inputs", "frame", "dtype"),
        *("embed", "slots", "head"),
    )
    data |= {"allow": list(allow)} if allow else {}
    return yaml_text({key: data[key] for key in order if key in data})


def canonical_text(recipe: Recipe) -> str:
    """Write a recipe as the JSON that its digest names."""
    return recipe.text + "\n"


def yaml_text(data: Mapping[str, Any]) -> str:
    """Write plain data as YAML, innermost lists and maps on one line."""
    return yaml.dump(
        dict(data),
        Dumper=yaml.SafeDumper,
        sort_keys=False,
        allow_unicode=True,
        default_flow_style=None,
        width=88,
    )


def _slot(slot: Slot, known: dict[Any, dict[str, Any]]) -> dict[str, Any]:
    """Return a slot; equal parts are one object, so YAML refers to the first."""
    out = slot.to_json()
    roles = {}
    for role, operation in slot.roles:
        roles[role] = known.setdefault(operation, operation.to_json())
    out["roles"] = known.setdefault(slot.roles, roles)
    return out
