"""Measures of whole candidates: which sources there are, and what a study wants."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from evomerge import plugins
from evomerge.core.cost import COST, Costs
from evomerge.core.measures import Evidence, Lookup, MeasureSource, Need
from evomerge.core.study import Constraint, Measure, Objective
from evomerge.errors import PluginError, RecipeError

SOURCES: Mapping[str, MeasureSource] = {COST: Costs()}
"""Ours, by what stands for a task in their measures; other packages may have more."""


def source_of(name: str) -> MeasureSource | None:
    """Return the source of a name; None if there is none that needs no task.

    Raises:
        PluginError: It is of another package, and may not or cannot be loaded.
    """
    if name in SOURCES:
        return SOURCES[name]
    part: Any = plugins.find("measures", name)
    if part is None:
        return None
    if not (isinstance(part, type) and issubclass(part, MeasureSource)):
        raise PluginError(
            f"{name!r} is no measure: expected a class that inherits "
            f"evomerge.core.measures.MeasureSource, got {part!r:.80}."
        )
    return None if Need.ENGINE in part.needed else part()


@dataclass(frozen=True)
class Meter:
    """Tells what a study asks of a candidate as a whole.

    Attributes:
        measures: Those asked for, in name order.
        lookup: What is known of the sources.
    """

    measures: tuple[Measure, ...]
    lookup: Lookup

    @cached_property
    def sources(self) -> dict[MeasureSource, tuple[str, list[str]]]:
        """Each source, its name, and which of its metrics are asked for."""
        metrics: dict[str, list[str]] = defaultdict(list)
        for measure in self.measures:
            metrics[measure.task].append(measure.metric)
        return {
            found: (name, wanted)
            for name, wanted in metrics.items()
            if (found := source_of(name)) is not None
        }

    @cached_property
    def is_timed(self) -> bool:
        """Whether the speed is asked for, which must be measured."""
        return any(
            Need.SPEED in source.needs(metric)
            for source, (_, metrics) in self.sources.items()
            for metric in metrics
        )

    def values(self, found: Evidence) -> dict[str, float]:
        """Return what is asked for and follows from what was found, by measure.

        Raises:
            RecipeError: It cannot be told of this recipe.
            PluginError: A source of another package gives no numbers.
        """
        return {
            f"{name}/{metric}": value
            for source, (name, metrics) in self.sources.items()
            for metric, value in _told(
                name,
                source,
                [m for m in metrics if source.needs(m) <= found.has],
                found,
            )
        }


def _told(
    name: str, source: MeasureSource, metrics: Sequence[str], found: Evidence
) -> Iterator[tuple[str, float]]:
    try:
        told = source.values(metrics, found)
        for metric in metrics:
            value = float(told[metric])
            if not math.isfinite(value):
                raise PluginError(f"expected a number for {metric!r}, got {value}")
            yield metric, value
    except RecipeError:
        raise
    except Exception as error:  # a stranger's code fails in any way it likes
        raise PluginError(
            f"The measures of {name!r} cannot be told of recipe {found.recipe.digest}: "
            f"{type(error).__name__}: {error}. Put its package right, then resume."
        ) from error


def wanted_measures(
    objectives: Iterable[Objective], constraints: Iterable[Constraint]
) -> tuple[Measure, ...]:
    """Return the measures of whole candidates that goals speak of, in name order."""
    goals = (*objectives, *(constraint.objective for constraint in constraints))
    measures = {measure for goal in goals for measure in goal.measures}
    return tuple(sorted(measure for measure in measures if not measure.by_item))
