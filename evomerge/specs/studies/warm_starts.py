"""Starts that another study found, written out as what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, MutableMapping
from typing import Any

from evomerge.core.recipes.recipe import Recipe
from evomerge.errors import EvomergeError
from evomerge.specs.completing.context import Finder
from evomerge.specs.reading.mistakes import Mistakes


def take_starts(
    data: MutableMapping[str, Any], finder: Finder, mistakes: Mistakes
) -> dict[str, dict[str, Recipe]]:
    """Put candidates of other studies where ``start`` asks for them.

    What is malformed is passed over: the models of the file judge that.

    Args:
        data: The study file; changed.
        finder: Finds the candidates.
        mistakes: Where to note what cannot be found.

    Returns:
        Name of the study, or of its stage, to its starts' recipes by their labels.
    """
    out: dict[str, dict[str, Recipe]] = {}
    for names, key, section in _sections(data):
        starts = section["start"]
        entries = [starts] if isinstance(starts, Mapping) else starts
        if not isinstance(entries, list):
            continue
        taken: list[Any] = []
        recipes: dict[str, Recipe] = {}
        for i, entry in enumerate(entries):
            if not _asks(entry):
                taken.append(entry)
                continue
            if strange := sorted({"name", "knobs"} & entry.keys()):
                said = "expected of another study only top or trial, got also"
                mistakes.add(f"{key}.{i}", f"{said} {', '.join(strange)}.")
                continue
            other, trial = entry["study"], entry.get("trial")
            top = None if trial is not None else entry.get("top", 1)
            try:
                found = finder(names[0], other, top, trial)
            except EvomergeError as error:
                mistakes.add(f"{key}.{i}.study", str(error))
                continue
            for one in found:
                label = f"{other} trial {one.trial}"
                recipes[label] = one.recipe
                own = {"name": label, "study": other, "trial": one.trial}
                own |= {} if top is None else {"top": top}
                taken.append({**own, "knobs": dict(one.point or {})})
        section["start"] = taken
        for name in names:
            out[name] = recipes
    return out


def _sections(
    data: MutableMapping[str, Any],
) -> Iterator[tuple[list[str], str, MutableMapping[str, Any]]]:
    """Yield whom a ``start`` is for, its key, and what it stands in."""
    name = str(data.get("name"))
    listed = data.get("stages")
    stages = (
        [one for one in listed if isinstance(one, MutableMapping)]
        if (isinstance(listed, list))
        else []
    )
    if "start" in data:
        own = [f"{name}.{s.get('name')}" for s in stages if "start" not in s]
        yield (own if listed else [name]) or [name], "start", data
    for i, stage in enumerate(stages):
        if "start" in stage:
            yield [f"{name}.{stage.get('name')}"], f"stages.{i}.start", stage


def _asks(entry: Any) -> bool:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("study"), str):
        return False
    top, trial = entry.get("top", 1), entry.get("trial", 0)
    is_one = not {"top", "trial"} <= entry.keys()
    return is_one and type(top) is int is type(trial) and top > 0 <= trial
