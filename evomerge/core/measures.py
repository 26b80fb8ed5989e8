"""Where measures come from: a source of some, what it needs, which way is better.

A study names a measure as ``source/metric``. Most sources are its tasks, which measure
items with a living engine (``scoring.item_sources``); the others tell of a candidate as
a whole, and need no task: what it costs (``core.cost``), and those of other packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar

from evomerge.core.recipes.recipe import Input, Recipe
from evomerge.core.scoring_protocol import Outcome
from evomerge.errors import RecipeError

REFERENCE = "reference"
"""Option of a task: the source of the study that it compares candidates with."""


class Need(StrEnum):
    """What a value cannot be told without."""

    OUTCOMES = "outcomes"
    """What came of a candidate's items."""
    RECIPE = "recipe"
    SPEED = "speed"
    """How long all items of a candidate took, in one call."""
    ENGINE = "engine"
    """A living engine that the candidate is swapped into."""
    REFERENCE = "reference"
    """What the same engine says with a model of the study's in it."""


@dataclass(frozen=True, slots=True)
class LayerFacts:
    """What of a layer costs something.

    Attributes:
        parameters: Entries of all its tensors.
        active: Entries of the matrices that one token is multiplied by; None if it is
            not known.
        queries: Entries of the queries of one token, over all heads; None if it is not
            known.
        window: Most tokens that one looks back at, itself included; None for all.
    """

    parameters: int
    active: int | None
    queries: int | None
    window: int | None = None

    def flops(self, context: int) -> int | None:
        """Return the operations for one token that may look at ``context`` tokens."""
        if self.active is None or self.queries is None:
            return None
        seen = context if self.window is None else min(context, self.window)
        return 2 * self.active + 4 * self.queries * seen


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What of a model costs something.

    Attributes:
        embed: Entries of the embedding, positions included.
        head: Entries of the matrix that gives the logits, its own or the embedding.
        ending: Entries of what stands before the head: the final norm.
        tied: The head is the embedding.
    """

    layers: tuple[LayerFacts, ...]
    embed: int
    head: int
    ending: int
    tied: bool


Lookup = Callable[[Input], ModelFacts]
"""What is known of an input that is a folder or made from one."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """All that is known of a candidate when its scores are told.

    Attributes:
        lookup: What is known of the sources.
        outcomes: Task to item id to outcome, of every item asked for.
        tokens_per_second: What scoring took; None where it was not timed.
    """

    recipe: Recipe
    lookup: Lookup
    outcomes: Mapping[str, Mapping[str, Outcome]] = field(default_factory=dict)
    tokens_per_second: float | None = None

    @property
    def has(self) -> frozenset[Need]:
        """What values may be told of it."""
        scored = (Need.OUTCOMES,) if self.outcomes else ()
        timed = () if self.tokens_per_second is None else (Need.SPEED,)
        return frozenset({Need.RECIPE, *scored, *timed})


class MeasureSource:
    """Gives the values of some measures; a class that inherits it says which.

    Attributes:
        metrics: Name of each to whether more of it is better; None where that depends.
        needed: What their values cannot be told without.
    """

    metrics: ClassVar[Mapping[str, bool | None]] = {}
    needed: ClassVar[frozenset[Need]] = frozenset({Need.RECIPE})

    def sense(self, metric: str) -> bool | None:
        """Tell whether more is better; None where nobody says.

        Raises:
            RecipeError: There is no such metric here.
        """
        if metric not in self.metrics:
            known = ", ".join(self.metrics)
            raise RecipeError(f"There is no {metric!r} here; there is {known}.")
        return self.metrics[metric]

    def needs(self, metric: str) -> frozenset[Need]:
        """Return what a metric that there is cannot be told without."""
        del metric
        return self.needed

    def unfit(self, metrics: Sequence[str], facts: ModelFacts) -> str | None:
        """Say why these cannot be told of merges of a source; None if they can."""
        del metrics, facts
        return None

    def values(self, metrics: Sequence[str], found: Evidence) -> Mapping[str, float]:
        """Return the values of these metrics for one candidate.

        Raises:
            RecipeError: They cannot be told of this recipe.
        """
        raise NotImplementedError(f"{type(self).__name__} tells nothing of {metrics}")
