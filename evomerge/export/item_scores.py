"""One candidate's outcomes as columns of numbers, ready to be compared."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Objective

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class ItemScores:
    """One candidate's score on every item, measure by measure.

    Attributes:
        items: Task to item ids, in the order of the columns.
        columns: Measure name (``task/metric``) to its value on each item of its task,
            shape ``(n_items,)``, float64, all finite.
    """

    items: Mapping[str, tuple[str, ...]]
    columns: Mapping[str, Floats]

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
        for measure in objective.measures:
            if not outcomes.get(measure.task):
                raise ValueError(f"No outcomes of task {measure.task!r}.")
            ordered = sorted(outcomes[measure.task], key=lambda outcome: outcome.item)
            ids = tuple(outcome.item for outcome in ordered)
            if len(set(ids)) != len(ids):
                raise ValueError(f"An item of task {measure.task!r} stands twice.")
            items[measure.task] = ids
            values = [_value(outcome, measure.metric) for outcome in ordered]
            columns[str(measure)] = np.array(values, dtype=np.float64)
        return cls(items, columns)

    def __post_init__(self) -> None:
        for name, column in self.columns.items():
            if column.ndim != 1 or not len(column) or not np.isfinite(column).all():
                raise ValueError(
                    f"Measure {name!r} needs a finite value for each of its items, "
                    f"got shape {column.shape} with "
                    f"{int((~np.isfinite(column)).sum())} not finite."
                )

    def value(self, objective: Objective) -> float:
        """Return the objective over all items, as measured."""
        means = {name: float(column.mean()) for name, column in self.columns.items()}
        return objective.value(means)


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
