"""One candidate's outcomes as columns of numbers, ready to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from evomerge.core.aggregates import AGGREGATES, how_of, parts_of
from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Objective

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ItemScores:
    """One candidate's score on every item, measure by measure.

    Attributes:
        items: Task to item ids, in the order of the columns.
        columns: Measure name (``task/metric``) to its value on each item of its task,
            shape ``(n_items,)``, float64, all finite; to the parts of each item,
            ``(n_parts, n_items)``, where it is no mean.
        hows: Measure that is no mean to how its parts are put together
            (``core.aggregates``).
    """

    items: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, Floats]
    hows: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def of(
        cls, objective: Objective, outcomes: Mapping[str, Sequence[Outcome]]
    ) -> ItemScores:
        """Collect what an objective needs; items are put in the order of their ids.

        Args:
            objective: Names the measures.
            outcomes: Task to its outcomes, in any order.

        Raises:
            ValueError: A task or metric is missing, an item stands twice, or a value
                is not finite.
        """
        items: dict[str, tuple[str, ...]] = {}
        columns: dict[str, Floats] = {}
        hows: dict[str, str] = {}
        for measure in objective.measures:
            if not outcomes.get(measure.task):
                raise ValueError(f"No outcomes of task {measure.task!r}.")
            ordered = sorted(outcomes[measure.task], key=lambda outcome: outcome.item)
            ids = tuple(outcome.item for outcome in ordered)
            if len(set(ids)) != len(ids):
                raise ValueError(f"An item of task {measure.task!r} stands twice.")
            items[measure.task] = ids
            metric, first = measure.metric, ordered[0].metrics
            how = None if metric in first else how_of(metric, first)
            values: list[float] | list[list[float]]
            if how is None:
                values = [_value(outcome, metric) for outcome in ordered]
            else:
                hows[str(measure)] = how
                values = [parts_of(metric, how, one.metrics) for one in ordered]
            columns[str(measure)] = np.array(values, dtype=np.float64).T
        return cls(items, columns, hows)

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            n_axes = 2 if name in self.hows else 1
            if column.ndim != n_axes or not column.size or not _is_finite(column):
                raise ValueError(
                    f"Measure {name!r} needs a finite value for each of its items, "
                    f"got shape {column.shape} with "
                    f"{int((~np.isfinite(column)).sum())} not finite."
                )

    def value(self, objective: Objective) -> float:
        """Return the objective over all items, as measured."""
        told = {n: float(self.put_together(n, c)) for n, c in self.columns.items()}
        return objective.value(told)

    def put_together(self, name: str, column: Floats) -> Floats:
        """Return a measure of items: ``(..., n_items)`` to ``(...)``.

        Args:
            name: The measure.
            column: Some of its items, in any number of axes; of one that is no mean
                with its parts in front.
        """
        how = self.hows.get(name)
        if how is None:
            return np.asarray(column.mean(axis=-1))
        return np.asarray(AGGREGATES[how].of(column))


def _is_finite(column: Floats) -> bool:
    return bool(np.isfinite(column).all())


def _value(outcome: Outcome, metric: str) -> float:
    if metric in outcome.metrics:
        return float(outcome.metrics[metric])
    if metric == "tokens":
        return float(outcome.tokens)
    if metric == "truncated":
        return float(outcome.truncated)
    raise ValueError(
        f"Item {outcome.item!r} has no metric {metric!r}; it has "
        f"{sorted(outcome.metrics)}, tokens and truncated."
    )
