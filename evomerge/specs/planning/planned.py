"""What a space is planned for, and what comes of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Generic, TypeVar

from evomerge.checkpoints import Model
from evomerge.core.recipes.recipe import VERSION, Input
from evomerge.core.space import Blueprint, SearchSpace

B_co = TypeVar("B_co", bound=Blueprint, covariant=True)


@dataclass(frozen=True, slots=True)
class Setting:
    """What a space is planned for.

    Attributes:
        inputs: Source name to what recipes call it.
        n_layers: Layers of every source that is merged.
        frame: The source that gives config and tokenizer.
        dtype: Element type of merged weights.
        seed: Seed of random operators.
        models: The sources that could be read.
        version: Of the recipes that points become.
    """

    inputs: Mapping[str, Input]
    n_layers: int
    frame: str
    dtype: str
    seed: int
    models: Mapping[str, Model] = field(default_factory=dict)
    version: int = VERSION

    @property
    def depths(self) -> dict[str, int]:
        """Layers of each source that could be read."""
        return {name: model.n_layers for name, model in self.models.items()}


@dataclass(frozen=True, slots=True)
class PlannedSpace(Generic[B_co]):
    """A space and the way from its points to recipes.

    Attributes:
        is_guess: Sources could not be read, so the axes are not those of the study.
    """

    space: SearchSpace
    blueprint: B_co
    is_guess: bool = False
