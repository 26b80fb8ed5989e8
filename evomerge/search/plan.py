"""What the coordinator is to do: a study as the search loop sees it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from evomerge.core.recipe import Recipe
from evomerge.core.space import Blueprint, SearchSpace
from evomerge.core.study import Budget, Constraint, Objective, StrategySettings
from evomerge.core.trial import Candidate, Point
from evomerge.search.lifecycle import RetryPolicy


@dataclass(frozen=True, slots=True)
class Start:
    """A trial of generation 0: a baseline, or a start of the user's own."""

    label: str
    recipe: Recipe
    point: Point | None = None


@dataclass(frozen=True, slots=True)
class Plan:
    """One study, decided.

    Attributes:
        starts: Generation 0, in order.
        timeout_s: Longest one attempt may take.
    """

    name: str
    seed: int
    space: SearchSpace
    blueprint: Blueprint
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    strategy: StrategySettings
    starts: tuple[Start, ...]
    budget: Budget
    timeout_s: float
    retries: RetryPolicy = field(default_factory=RetryPolicy)

    def baselines(self) -> tuple[Candidate, ...]:
        """Return generation 0 as candidates."""
        return tuple(
            Candidate(0, index, start.recipe, start.point, start.label)
            for index, start in enumerate(self.starts)
        )

    def candidates(
        self, generation: int, points: Sequence[Point], first: int = 0
    ) -> tuple[Candidate, ...]:
        """Turn points into candidates of a generation, counting from ``first``."""
        return tuple(
            Candidate(generation, first + i, self.blueprint.recipe(point), point)
            for i, point in enumerate(points)
        )
