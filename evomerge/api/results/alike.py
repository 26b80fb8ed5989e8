"""Which candidates cannot be told from a trial, on the items of the search."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from evomerge.core.scoring_protocol import ItemRole, TaskDescription, pooled
from evomerge.core.study import Direction, Objective
from evomerge.core.trial import Record
from evomerge.export.item_scores import ItemScores
from evomerge.export.report import Contender, scores_on
from evomerge.export.stats import best_of_many
from evomerge.store.base import Store, StoredStudy

MOST = 60
"""Rivals that are looked at: those whose values are best."""
ALPHA = 0.05
_CELLS = 1 << 24  # swapped items held at once: bounds the memory


def search_scores(
    store: Store, tasks: Sequence[TaskDescription], goal: Objective, recipe: str
) -> ItemScores:
    """Return a recipe's scores on the items of the search, as far as they are known.

    Raises:
        ExportError: A task or metric of the objective is missing.
    """
    known = store.outcomes_under(recipe, {task.protocol.digest for task in tasks})
    outcomes = {}
    for task in tasks:
        scored = known[task.protocol.digest]
        ids = task.manifest.ids_of(ItemRole.SEARCH)
        outcomes[task.manifest.task] = [scored[i] for i in ids if i in scored]
    label = f"recipe {recipe}"
    return scores_on(goal, Contender(label, {**outcomes, **pooled(tasks, outcomes)}))


def alike(
    store: Store,
    stored: StoredStudy,
    goal: Objective,
    trial: Record,
    rivals: Sequence[Record],
) -> tuple[int, ...]:
    """Return the rivals that are not told apart from a trial, by number.

    All are compared with the trial at once, on the items that both answered in the
    search, and corrected for there being many (Westfall and Young 1993). Those that
    are left are what multiple comparison with the best keeps (Hsu 1984).

    Args:
        store: Holds the outcomes.
        stored: The study.
        goal: What is compared.
        trial: A scored trial.
        rivals: Scored trials; equal merges and the trial itself are left out.
    """
    tasks = store.tasks(stored.id) or ()
    sign = -1 if goal.direction is Direction.MAXIMIZE else 1
    values = {r.recipe: goal.value(r.scores) for r in rivals if r.scores is not None}
    values.pop(trial.recipe, None)
    ranked = sorted(values, key=lambda recipe: sign * values[recipe])[:MOST]
    reference = search_scores(store, tasks, goal, trial.recipe)
    scores = {recipe: search_scores(store, tasks, goal, recipe) for recipe in ranked}
    same = {k: one for k, one in scores.items() if one.items == reference.items}
    rng = np.random.default_rng([stored.seed, trial.number])
    n_items = sum(map(len, reference.items.values()))
    n_swaps = max(200, min(2_000, _CELLS // n_items))
    found = best_of_many(goal, tuple(same.values()), reference, rng, n_swaps)
    left = {recipe for recipe, p in zip(same, found, strict=True) if p >= ALPHA}
    first: dict[str, int] = {}
    for rival in rivals:
        if rival.recipe in left:
            first.setdefault(rival.recipe, rival.number)
    return tuple(sorted(first.values()))
