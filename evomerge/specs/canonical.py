"""The canonical form of recipe files: a recipe's JSON, with folders beside it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from evomerge.checkpoints import Model
from evomerge.checkpoints.configs.meanings import KINDS
from evomerge.core.operators.catalogue import UNKNOWN
from evomerge.core.recipes.recipe import (
    Input,
    Nested,
    Recipe,
    Slot,
    Transformed,
    contents,
)
from evomerge.errors import RecipeError, SpecError
from evomerge.specs.misfits import check_slots, note_tokenizers, refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.sources import (
    Statistics,
    input_of,
    measured_of,
    open_sources,
    whereabouts,
)

_BESIDE = ("paths", "statistics", "allow")
"""Keys beside a recipe that are no part of it."""


def read_canonical(
    data: Mapping[str, Any], file: Path, mistakes: Mistakes
) -> tuple[Recipe, dict[str, Model]]:
    """Read a recipe's JSON that has the folders of its inputs under ``paths``.

    Args:
        data: What the file holds.
        file: Where it lies.
        mistakes: Where to note what is wrong.

    Returns:
        The recipe, and input name to model.

    Raises:
        SpecError: Carries every mistake found.
    """
    paths = data.get("paths", {})
    mistakes.allow = _allowed(data, mistakes)
    try:
        recipe = Recipe.from_json({k: v for k, v in data.items() if k not in _BESIDE})
    except (RecipeError, ValueError) as error:
        mistakes.add("", f"{error}")
        raise SpecError(mistakes.found) from error
    if not isinstance(paths, Mapping) or not all(
        isinstance(folder, str) for folder in paths.values()
    ):
        mistakes.add("paths", "expected a mapping from input to model folder.")
        raise SpecError(mistakes.found)
    inputs = dict(recipe.inputs)
    mistakes.unknown = any(UNKNOWN in dict(slot.roles) for _, slot in recipe.places())
    further = {n: one for i in inputs.items() for n, one in _among(*i)}
    for name in paths:
        if name not in inputs and name not in further:
            mistakes.add(f"paths.{name}", f"expected an input: {', '.join(inputs)}.")
    inputs = further | inputs
    models = open_sources(
        {name: str(folder) for name, folder in paths.items() if name in inputs},
        file.parent,
        mistakes,
        key="paths",
        statistics=_statistics(data, mistakes),
    )
    if not further:
        # Whether each slot's layers fit is seen when they are read.
        refuse_misfits(models, mistakes, key="paths", same_depth=False)
        note_tokenizers(models, recipe.frame, mistakes, key="paths")
    for name, model in models.items():
        wanted, found = contents(inputs[name]), contents(input_of(model))
        if not set(found) <= set(wanted):
            mistakes.add(
                f"paths.{name}",
                f"expected a folder with fingerprint {'+'.join(wanted)}, got "
                f"{'+'.join(found)}; its content is not what the recipe merged.",
            )
    check_slots(recipe, models, mistakes)
    mistakes.stop_if_any()
    return recipe, models


def _statistics(data: Mapping[str, Any], mistakes: Mistakes) -> Statistics:
    said = data.get("statistics", {})
    try:
        return {
            str(kind): {str(name): str(file) for name, file in files.items()}
            for kind, files in said.items()
        }
    except AttributeError:
        mistakes.add("statistics", "expected kind to input to file.")
        return {}


def _allowed(data: Mapping[str, Any], mistakes: Mistakes) -> tuple[str, ...]:
    said = data.get("allow", [])
    known = isinstance(said, list) and all(
        isinstance(kind, str) and kind in KINDS for kind in said
    )
    if not known:
        kinds = ", ".join(KINDS)
        mistakes.add("allow", f"expected a list of some of {kinds}; got {said!r}.")
        return ()
    return tuple(said)


def _among(name: str, source: Input) -> Iterator[tuple[str, Input]]:
    """Yield further models that an input is worked out from, by name."""
    if isinstance(source, Transformed):
        yield from source.among
    if isinstance(source, Nested):
        for part, one in source.recipe.inputs:
            below = f"{name}/{part}"
            yield from ((below, one), *_among(below, one))


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
    read = {name: models[name] for name in paths}
    measured = measured_of(read, lambda file: str(file.path))
    known: dict[Any, dict[str, Any]] = {}
    data = recipe.to_json() | {
        "paths": paths,
        "embed": _slot(recipe.embed, known),
        "slots": [_slot(slot, known) for slot in recipe.slots],
        "head": _slot(recipe.head, known),
    }
    order = (
        *("version", "fused", "paths", "statistics", "allow", "inputs", "frame"),
        *("dtype", "embed", "slots", "head", "parts"),
    )
    data |= {"allow": list(allow)} if allow else {}
    data |= {"statistics": measured} if measured else {}
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
