"""Inputs of a recipe as views: folders, adapted, brought to a vocabulary, or merged."""

from __future__ import annotations

from collections.abc import Callable

from evomerge.core.recipes.recipe import Adapted, Checkpoint, Input, Nested, Recipe
from evomerge.merging.sources import Sources
from evomerge.merging.views.adapted import open_adapted
from evomerge.merging.views.revocabulated import open_transformed
from evomerge.merging.views.stored import Stored, View

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
