"""Recipes of earlier stages as sources: do they fit the folders of the study?"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

from evomerge.checkpoints import Model
from evomerge.checkpoints.composed import composed
from evomerge.checkpoints.foldable import check_folds
from evomerge.core.recipes.recipe import Input, Nested, Recipe
from evomerge.errors import RecipeError
from evomerge.specs.completing.stage import Stage
from evomerge.specs.misfits import refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes


def take_in(
    stage: Stage,
    models: Mapping[str, Model],
    inputs: Mapping[str, Input],
    *,
    frame: str,
    same_depth: bool,
    mistakes: Mistakes,
) -> dict[str, Input]:
    """Return what recipes call the sources that a stage takes.

    Args:
        stage: The stage.
        models: Every source that is known, by name.
        inputs: What recipes call those that are folders.
        frame: Name of the frame.
        same_depth: Layers are merged one by one.
        mistakes: Where to note what does not fit.
    """
    out: dict[str, Input] = {}
    for name, recipe in stage.recipes.items():
        out[name] = Nested(recipe)
        for other in _brought_otherwise(recipe, inputs):
            mistakes.add(
                "vocabulary",
                f"expected the vocabulary of stage {stage.take[name].stage!r}, where "
                f"{other!r} has other rows: give both stages the same base and frame, "
                "or name a source as the vocabulary.",
            )
        if name in models:
            _check_scales(name, recipe, models[name], mistakes)
        if {name, frame} <= models.keys():
            refuse_misfits(
                {frame: models[frame], name: models[name]},
                mistakes,
                key=f"take.{name}",
                same_vocabulary=False,
                same_depth=same_depth,
            )
    return out


def _check_scales(name: str, recipe: Recipe, model: Model, mistakes: Mistakes) -> None:
    """Note scales that do not fold: as a source, a stack is read as weights."""
    try:
        check_folds(model, [slot.scale for slot in recipe.slots], recipe.dtype)
    except RecipeError as error:
        mistakes.add(f"take.{name}", f"expected a stack that can be written: {error}")


def _brought_otherwise(recipe: Recipe, inputs: Mapping[str, Input]) -> list[str]:
    """Return the sources that are another input in a recipe than in the study."""
    odd: list[str] = []
    for name, source in recipe.inputs:
        if isinstance(source, Nested):
            odd += _brought_otherwise(source.recipe, inputs)
        elif name in inputs and inputs[name] != source:
            odd.append(name)
    return odd


def composed_among(
    taken: Mapping[str, Recipe], models: Mapping[str, Model]
) -> dict[str, Model]:
    """Return what can be known of taken recipes; of none whose folders are missing."""
    out: dict[str, Model] = {}
    for name, recipe in taken.items():
        with suppress(KeyError):
            out[name] = composed(recipe, models)
    return out
