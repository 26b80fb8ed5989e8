"""What the coordinator is to do: a study as the search loop sees it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from evomerge.core.meter import Meter
from evomerge.core.space import Blueprint, SearchSpace
from evomerge.core.study import (
    Budget,
    Constraint,
    Objective,
    Sampling,
    StrategySettings,
)
from evomerge.core.trial import Candidate, Point
from evomerge.search.attempt import RetryPolicy
from evomerge.specs.resolved import Baseline


@dataclass(frozen=True, slots=True)
class Plan:
    """One study, decided.

    Attributes:
        starts: Generation 0, in order.
        timeout_s: Longest one attempt may take.
        allowance: What this run changes (budget, workers); None changes nothing.
        meter: Tells of whole candidates; None if nothing asks for it.
        shares_trials: Several workers may score one trial together.
        times_by_block: Where speed counts it is measured block by block, as it was
            when items were cut into few large ones.
        sampling: How generations answer fewer items; None lets each answer all.
    """

    name: str
    seed: int
    space: SearchSpace
    blueprint: Blueprint
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    strategy: StrategySettings
    starts: tuple[Baseline, ...]
    budget: Budget
    timeout_s: float
    allowance: Mapping[str, Any] | None = None
    retries: RetryPolicy = field(default_factory=RetryPolicy)
    meter: Meter | None = None
    shares_trials: bool = True
    times_by_block: bool = False
    sampling: Sampling | None = None

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
