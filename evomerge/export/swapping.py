"""Could chance explain a difference? Swap the two candidates' answers and see.

If two candidates are equally good, which of them gave which of an item's two answers is
arbitrary. Swapping them at random, item by item, gives the differences chance produces
(Fisher 1935; Noreen 1989, "approximate randomization"). Unlike a bootstrap p-value it
stays right when only a handful of items tell the two apart: five wins and no loss give
p = 0.0625, as the exact sign test does.
"""

from __future__ import annotations

import numpy as np

from evomerge.core.study import Direction, Objective
from evomerge.export.item_scores import Floats, ItemScores

N_SWAPS = 10_000
_CELLS = 1 << 20  # swapped items held at once: bounds the memory
_ROUNDING = 1e-12  # sums in another order must not look smaller


def swap_test(
    objective: Objective,
    mine: ItemScores,
    theirs: ItemScores,
    rng: np.random.Generator,
    n_swaps: int = N_SWAPS,
) -> float:
    """Return the two-sided p-value that two candidates differ only by chance.

    All answers to one item are swapped together, over the measures of its task, and
    the whole objective is recomputed, so ``worst`` is treated as it is used.

    Args:
        objective: What is compared.
        mine: One candidate.
        theirs: The other, on the same items.
        rng: Decides the swaps.
        n_swaps: Number of random swaps; the smallest p-value is 1 / (n_swaps + 1).

    Raises:
        ValueError: The two were scored on different items.
    """
    if dict(mine.items) != dict(theirs.items):
        raise ValueError("The two candidates were scored on different items.")
    seen = abs(mine.value(objective) - theirs.value(objective))
    names = [str(measure) for measure in objective.measures]
    middle = np.empty(len(names))
    half = np.empty((len(names), n_swaps))
    for task in dict.fromkeys(measure.task for measure in objective.measures):
        own = [i for i, m in enumerate(objective.measures) if m.task == task]
        a = np.array([mine.columns[names[i]] for i in own])
        b = np.array([theirs.columns[names[i]] for i in own])
        middle[own] = (a.mean(axis=1) + b.mean(axis=1)) / 2
        half[own] = _half_differences((a - b) / (2 * a.shape[1]), rng, n_swaps)
    differences = _values(objective, middle[:, None] + half) - _values(
        objective, middle[:, None] - half
    )
    scale = max(1.0, float(np.abs(middle).max()))
    as_large = int((np.abs(differences) >= seen - _ROUNDING * scale).sum())
    return (as_large + 1) / (n_swaps + 1)


def _half_differences(parts: Floats, rng: np.random.Generator, n_swaps: int) -> Floats:
    """Sum items with random signs: ``(n_measures, n_items)`` to ``(..., n_swaps)``."""
    parts = parts[:, (parts != 0).any(axis=0)]  # equal answers cannot be told apart
    out = np.zeros((len(parts), n_swaps))
    step = max(1, _CELLS // max(1, parts.shape[1]))
    for begin in range(0, n_swaps, step):
        n = min(step, n_swaps - begin)
        signs = rng.integers(2, size=(n, parts.shape[1]), dtype=np.int8) * 2.0 - 1.0
        out[:, begin : begin + n] = parts @ signs.T
    return out


def _values(objective: Objective, means: Floats) -> Floats:
    """Combine measures as the objective does: ``(n_measures, n)`` to ``(n,)``."""
    weights = np.array(objective.weights, dtype=np.float64)
    value = weights @ means / weights.sum()
    if objective.worst:
        more = objective.direction is Direction.MAXIMIZE
        extreme = means.min(axis=0) if more else means.max(axis=0)
        value = value + objective.worst * extreme
    return np.asarray(value)
