"""A study in stages: several searches, each on what the earlier ones found.

A stage is an ordinary study with sources more: recipes that earlier stages found, taken
under names of its own. Written to disk they never are; they are inputs of its recipes.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.composed import composed
from evomerge.checkpoints.foldable import check_folds
from evomerge.core.recipes.recipe import Input, Nested, Recipe
from evomerge.core.survey import Surveyed
from evomerge.errors import RecipeError
from evomerge.specs.misfits import refuse_misfits
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.study import StudySpec


@dataclass(frozen=True, slots=True)
class Take:
    """Which candidate of an earlier stage is a source of a later one.

    Attributes:
        stage: The earlier stage.
        best: The objective it is the best of; None for the first.
        place: Its place among those taken from the front, from 0; None for the best.
    """

    stage: str
    best: str | None = None
    place: int | None = None


@dataclass(frozen=True, slots=True)
class Taken:
    """What became of a take.

    Attributes:
        trial: Number of the trial in the earlier stage; None for a stand-in.
    """

    recipe: Recipe
    trial: int | None = None


@dataclass(frozen=True, slots=True)
class Stage:
    """What makes a study a stage of another.

    Attributes:
        study: Name of the whole study.
        name: Its own name.
        number: Its place, from 0.
        take: Name to what is taken.
        taken: Name to what became of it.
    """

    study: str
    name: str
    number: int
    take: Mapping[str, Take] = field(default_factory=dict)
    taken: Mapping[str, Taken] = field(default_factory=dict)

    @property
    def recipes(self) -> dict[str, Recipe]:
        """Name to recipe, of what was taken."""
        return {name: one.recipe for name, one in self.taken.items()}

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {
            "study": self.study,
            "name": self.name,
            "number": self.number,
            "take": {name: asdict(one) for name, one in self.take.items()},
            "taken": {
                name: {"trial": one.trial, "recipe": one.recipe.to_json()}
                for name, one in self.taken.items()
            },
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Stage:
        """Read the plain form."""
        return cls(
            study=data["study"],
            name=data["name"],
            number=data["number"],
            take={name: Take(**one) for name, one in data["take"].items()},
            taken={
                name: Taken(Recipe.from_json(one["recipe"]), one["trial"])
                for name, one in data["taken"].items()
            },
        )


@dataclass(frozen=True, slots=True)
class Part:
    """One search of a file.

    Attributes:
        spec: All it says, whether for one stage or for all.
        stage: Which stage it is; None where there are none.
        places: Key to where it stands, for those that are the stage's own.
        surveyed: What is known of its tasks.
        muted: Keys that follow from mistakes, see ``Mistakes``.
        recipes: Recipes of starts by name, of those that another study found.
    """

    spec: StudySpec
    stage: Stage | None = None
    places: Mapping[str, str] = field(default_factory=dict)
    surveyed: Surveyed = field(default_factory=Surveyed)
    muted: tuple[str, ...] = ()
    recipes: Mapping[str, Recipe] = field(default_factory=dict)

    def mistakes(self, file: str) -> Mistakes:
        """Return where to note what is wrong with this part."""
        return Mistakes(file, places=self.places, muted=self.muted)


def grounded(name: str, taken: Mapping[str, Recipe]) -> str:
    """Return the model folder whose config and tokenizer a source has.

    Args:
        name: Of the source.
        taken: Those sources that are recipes.
    """
    while name in taken:
        recipe = taken[name]
        taken = {n: s.recipe for n, s in recipe.inputs if isinstance(s, Nested)}
        name = recipe.frame
    return name


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
