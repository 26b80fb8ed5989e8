"""Where a study is resolved."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from evomerge.checkpoints.configs.meanings import KINDS
from evomerge.core.digest import Scalar
from evomerge.core.recipes.recipe import VERSION, Recipe
from evomerge.core.space import SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.core.survey import Surveyed
from evomerge.specs.completing.stage import Stage
from evomerge.specs.schema.measures import CUT

Judge = Callable[[StrategySettings, SearchSpace, int, bool], list[str]]
"""Lists what is wrong with a strategy, given the space, the number of objectives, and
whether generations answer other items each."""


@dataclass(frozen=True, slots=True)
class Found:
    """A candidate of another study.

    Attributes:
        trial: Its number there.
        recipe: The merge.
        point: Where it lies in that study's space; None for none of it.
    """

    trial: int
    recipe: Recipe
    point: Mapping[str, Scalar] | None


class Finder(Protocol):
    """Finds what a study is to begin with."""

    def __call__(
        self, name: str, other: str, top: int | None, trial: int | None
    ) -> Sequence[Found]:
        """Return the candidates of another study, best first.

        Args:
            name: The study that begins; what is recorded of it stays so.
            other: The other one.
            top: How many; None if one is meant.
            trial: The one that is meant; None for the best.

        Raises:
            EvomergeError: There is no such study, or no such candidate.
        """


@dataclass(frozen=True, slots=True)
class Surroundings:
    """Where a study is resolved.

    Attributes:
        base_dir: Where relative paths start; None if no file is to be read.
        file: Name of the study file, for messages.
        cache_dir: Where fingerprints are remembered, if anywhere.
        recipes: Recipes of starts by name, where they are known without their files.
        judge: Says what is wrong with a choice of strategy.
        stage: Which stage the study is, and what it takes; None where there are none.
        accepted: The sources are those the study was begun with: what differs between
            them is told, not refused.
        later: The stages after it, as they are kept until they begin.
        recipe_version: Of the recipes that its points become.
        cut: Version of the cut of its items into blocks.
        surveyed: What is known of the tasks.
    """

    base_dir: Path | None
    file: str = "study file"
    cache_dir: Path | None = None
    recipes: Mapping[str, Recipe] = field(default_factory=dict)
    judge: Judge | None = None
    stage: Stage | None = None
    accepted: bool = False
    later: tuple[Mapping[str, Any], ...] = ()
    recipe_version: int = VERSION
    cut: int = CUT
    surveyed: Surveyed = field(default_factory=Surveyed)

    def allowed(self, written: Collection[str] | None) -> Collection[str]:
        """Return which kinds of differences between sources are told, not refused."""
        return tuple(KINDS) if self.accepted else written or ()
