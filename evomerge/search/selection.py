"""Which trials of a finished study are taken on into another.

What is picked follows from recorded outcomes alone, so it can be picked again after any
kind of stop. Baselines count: where nothing beats a parent, the parent is taken.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from evomerge.core.study import Constraint, Objective
from evomerge.core.trial import Record
from evomerge.search.scoreboard import is_feasible
from evomerge.strategies.ranks import crowding, fronts, losses


def best_by(
    objective: Objective, records: Sequence[Record], constraints: Sequence[Constraint]
) -> Record | None:
    """Return the best feasible trial of an objective; of equals the first.

    Args:
        objective: What counts.
        records: Every trial, by number.
        constraints: Bounds that the trial must keep.

    Returns:
        None if no trial is scored and feasible.
    """
    kept = _feasible(records, constraints)
    ranked = sorted(kept, key=lambda one: (_losses((objective,), one), one.number))
    return next(iter(ranked), None)


def front_first(
    objectives: Sequence[Objective],
    records: Sequence[Record],
    constraints: Sequence[Constraint],
) -> tuple[Record, ...]:
    """Return the feasible trials, each recipe once: the front, then what it hides.

    Front by front; within one those that stand most alone come first (Deb et al. 2002),
    so that the first few cover it. Of equals the first.

    Args:
        objectives: What counts.
        records: Every trial, by number.
        constraints: Bounds that trials must keep.
    """
    once: dict[str, Record] = {}
    for record in _feasible(records, constraints):
        once.setdefault(record.recipe, record)
    kept = list(once.values())
    if not kept:
        return ()
    values = np.array([_losses(objectives, one) for one in kept])
    ranks = fronts(values)
    alone = np.empty(len(kept))
    for rank in range(int(ranks.max()) + 1):
        alone[ranks == rank] = crowding(values[ranks == rank])
    order = sorted(range(len(kept)), key=lambda i: (ranks[i], -alone[i], i))
    return tuple(kept[i] for i in order)


def _feasible(
    records: Sequence[Record], constraints: Sequence[Constraint]
) -> list[Record]:
    scored = [
        one
        for one in records
        if one.state.is_final and one.scores is not None and not one.is_partial
    ]
    baselines: dict[str, Mapping[str, float]] = {
        one.label: one.scores for one in scored if one.label and one.scores
    }
    kept = [
        one for one in scored if is_feasible(constraints, one.scores or {}, baselines)
    ]
    return sorted(kept, key=lambda one: one.number)


def _losses(objectives: Sequence[Objective], record: Record) -> tuple[float, ...]:
    assert record.scores is not None
    return losses(objectives, record.scores)
