"""What an export comes from: the parents of its weights, and who proposed it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from evomerge.core.recipes.recipe import (
    Adapted,
    Checkpoint,
    Input,
    Recipe,
    copied,
    parents_of,
)

if TYPE_CHECKING:
    from evomerge.api.sealed import Case
    from evomerge.checkpoints import Model
    from evomerge.export.parents import Parent, Standing


def parents(recipe: Recipe, sources: Mapping[str, Model]) -> tuple[Parent, ...]:
    """Return the sources whose weights a merge is made of, each content once."""
    from evomerge.checkpoints.licence import licence_of
    from evomerge.export.parents import Parent
    from evomerge.specs.sources import input_of

    named: dict[Input, tuple[str, Model]] = {}
    for name, model in sources.items():
        named.setdefault(input_of(model), (name, model))

    # A model that is only read without the adapter it has as a source.
    for name, model in sources.items():
        named.setdefault(Checkpoint(model.fingerprint), (name, model))

    def parent(one: Checkpoint | Adapted) -> Parent:
        name, model = named[one]
        found = Parent(
            name,
            model.fingerprint,
            _hub_name(model.origin),
            folder=str(model.path),
            licence=licence_of(model.path, model.config),
        )
        adapter = model.adapter
        if adapter is None or isinstance(one, Checkpoint):
            return found
        part = Parent(
            name,
            adapter.fingerprint,
            _hub_name(adapter.origin),
            folder=str(adapter.path),
            licence=licence_of(adapter.path, {}),
        )
        return replace(found, adapter=part)

    return tuple(parent(one) for one in parents_of(recipe) if one in named)


def standing(case: Case, *, is_best: bool) -> Standing | None:
    """Tell what a trial was before the search, if a candidate of it is none."""
    from evomerge.export.parents import Standing
    from evomerge.specs.sources import input_of

    study, recipe = case.study, case.trial.candidate.recipe
    source = copied(recipe)
    for name, model in study.sources.items():
        if source == input_of(model) and model.n_layers == len(recipe.slots):
            return Standing("parent", name, is_best)
    _, same = case.rivals()
    if not same:
        return None
    label = same[0].candidate.label or f"trial {same[0].number}"
    starts = {start["name"] for start in study.config["study"]["start"]}
    return Standing("start" if label in starts else "baseline", label, is_best)


def _hub_name(origin: str | None) -> str | None:
    """Return the repository of a pinned id."""
    from evomerge.checkpoints.hub import parse

    found = None if origin is None else parse(origin)
    return None if found is None else found.repo
