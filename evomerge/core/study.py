"""What a study wants: objectives, constraints and budget, as values.

Users and tables see scores as measured; only ``strategies.ranks`` turns directions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any


class Direction(StrEnum):
    """Which way is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"

    @property
    def words(self) -> str:
        """What people are told."""
        is_more = self is Direction.MAXIMIZE
        return "higher is better" if is_more else "lower is better"


@dataclass(frozen=True, slots=True, order=True)
class Measure:
    """One figure of a candidate, from a task or another source (``core.measures``).

    Attributes:
        task: The source: a task of the study's, or one that needs no task.
        metric: One of its metrics; of tasks also ``tokens`` or ``truncated``.
        by_item: It is put together from outcomes of items; else it is told of the
            candidate as a whole.
    """

    task: str
    metric: str
    by_item: bool = True

    def __str__(self) -> str:
        return f"{self.task}/{self.metric}"


@dataclass(frozen=True, slots=True)
class Objective:
    """A number to improve, made of measures.

    The value is ``sum(w * m) / sum(w) + worst * min(m)``; where smaller is better the
    ``min`` is a ``max``. With one measure and ``worst`` 0 it is that measure.

    Attributes:
        weights: One per measure.
        worst: Extra weight of the worst measure: 0.5 asks for balance.
    """

    name: str
    direction: Direction
    measures: tuple[Measure, ...]
    weights: tuple[float, ...]
    worst: float = 0.0

    @property
    def by_item(self) -> bool:
        """Outcomes of items decide it, so it can be had on held-out items."""
        return all(measure.by_item for measure in self.measures)

    def value(self, scores: Mapping[str, float]) -> float:
        """Combine scores (``task/metric`` to mean) into this objective, as measured."""
        values = [scores[str(measure)] for measure in self.measures]
        total = math.fsum(w * v for w, v in zip(self.weights, values, strict=True))
        mean = total / math.fsum(self.weights)
        extreme = min(values) if self.direction is Direction.MAXIMIZE else max(values)
        return mean + self.worst * extreme if self.worst else mean

    def error(
        self, scores: Mapping[str, float], errors: Mapping[str, float]
    ) -> float | None:
        """Return the standard error of the value, to first order.

        Measures of one task are of the same items: they are taken to err together, and
        those of several tasks apart. With ``worst``, the measure that is worst now is
        taken to be the worst; where several are near, the value is too low as well.
        What is told of the candidate as a whole does not err by the items.

        Args:
            scores: ``task/metric`` to mean.
            errors: The same to standard error.

        Returns:
            None if that of some measure is not known.
        """
        known = {
            measure: errors.get(str(measure)) if measure.by_item else 0.0
            for measure in self.measures
        }
        if None in known.values():
            return None
        total = math.fsum(self.weights)
        pull = [weight / total for weight in self.weights]
        values = [scores[str(measure)] for measure in self.measures]
        extreme = min(values) if self.direction is Direction.MAXIMIZE else max(values)
        pull[values.index(extreme)] += self.worst
        by_task: dict[str, float] = {}
        for measure, share in zip(self.measures, pull, strict=True):
            error = share * (known[measure] or 0.0)
            by_task[measure.task] = by_task.get(measure.task, 0.0) + error
        return math.hypot(*by_task.values())


@dataclass(frozen=True, slots=True)
class Constraint:
    """A bound that every point of the front must keep.

    Attributes:
        objective: What is bounded; its direction says which side is allowed: one that
            is maximised must be at least the bound, one minimised at most.
        bound: The bound itself, or the distance to a baseline.
        relative_to: Label of a baseline trial; the bound is then added to its value.
    """

    objective: Objective
    bound: float
    relative_to: str | None = None

    def violation(
        self, scores: Mapping[str, float], baselines: Mapping[str, Mapping[str, float]]
    ) -> float:
        """Return by how much the bound is missed; 0 or less is feasible.

        Args:
            scores: The candidate's scores.
            baselines: Label of each scored baseline to its scores.
        """
        bound = self.bound
        if self.relative_to is not None:
            bound += self.objective.value(baselines[self.relative_to])
        value = self.objective.value(scores)
        better_is_more = self.objective.direction is Direction.MAXIMIZE
        return bound - value if better_is_more else value - bound


@dataclass(frozen=True, slots=True)
class Budget:
    """When to stop asking; whatever is reached first. None means no limit.

    Attributes:
        trials: Candidates asked of the strategy; baselines are free. The last
            generation is cut to fit.
        items: Scored items, reused ones not counted.
        seconds: Wall time over all runs of the study.
    """

    trials: int | None = None
    items: int | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True)
class Sampling:
    """How a search asks fewer items than there are.

    Attributes:
        share: Of the blocks of every task that a generation answers, above 0, below 1.
        finalists: Most candidates that are scored on all items at the end.
    """

    share: float
    finalists: int


@dataclass(frozen=True, slots=True)
class StrategySettings:
    """Which strategy searches, and how.

    Attributes:
        kind: Its name, ``cma`` for example.
        generation_size: Candidates a generation; None takes the strategy's own.
        options: Further settings of this kind.
    """

    kind: str
    generation_size: int | None = None
    options: Mapping[str, Any] = field(default_factory=dict)


def objective_values(
    objectives: Sequence[Objective], scores: Mapping[str, float]
) -> tuple[float, ...]:
    """Return each objective's value, as measured, in order."""
    return tuple(objective.value(scores) for objective in objectives)
