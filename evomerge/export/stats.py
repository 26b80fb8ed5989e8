"""Is there a difference: swapped answers, several comparisons at once, verdicts.

Export and reports call this with the outcomes of held-out items. Two candidates are
always compared on the same items; an item's outcomes are swapped together, over the
measures of its task.
"""

from __future__ import annotations

from collections.abc import Sequence
from enum import StrEnum

import numpy as np
import numpy.typing as npt

from evomerge.core.study import Direction, Objective
from evomerge.export.intervals import Estimate, values
from evomerge.export.item_scores import Floats, ItemScores

_CELLS = 1 << 20  # resampled or swapped items held at once: bounds the memory
N_SWAPS = 10_000
FLOOR = 1 / (N_SWAPS + 1)
"""The smallest p-value that so many swaps can show."""
_ROUNDING = 1e-12  # sums in another order must not look smaller


class Verdict(StrEnum):
    """What a comparison lets us say."""

    GAIN = "gain"
    LOSS = "loss"
    NONE = "no detectable gain"


def verdict(
    objective: Objective, difference: Estimate, p_value: float, alpha: float = 0.05
) -> Verdict:
    """Say what a comparison shows.

    Args:
        objective: Its direction says which side is better.
        difference: Mine minus theirs.
        p_value: Of no difference, adjusted for several comparisons.
        alpha: Largest p-value that counts.
    """
    low, high = difference.low, difference.high
    if objective.direction is Direction.MINIMIZE:
        low, high = -high, -low
    if p_value < alpha and low > 0:
        return Verdict.GAIN
    if p_value < alpha and high < 0:
        return Verdict.LOSS
    return Verdict.NONE


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """Adjust p-values of several tests (Holm 1979); the family error stays bounded.

    Args:
        p_values: Each in [0, 1].

    Returns:
        Adjusted p-values in the order given; compare each with alpha.

    Raises:
        ValueError: One is outside [0, 1] or NaN.
    """
    if not all(0.0 <= p <= 1.0 for p in p_values):
        raise ValueError(f"Expected p-values in [0, 1], got {list(p_values)}.")
    n = len(p_values)
    out = [0.0] * n
    largest = 0.0
    for rank, index in enumerate(sorted(range(n), key=lambda i: p_values[i])):
        largest = max(largest, min(1.0, (n - rank) * p_values[index]))
        out[index] = largest
    return tuple(out)


def swap_test(
    objective: Objective,
    mine: ItemScores,
    theirs: ItemScores,
    rng: np.random.Generator,
    n_swaps: int = N_SWAPS,
) -> float:
    """Return the two-sided p-value that two candidates differ only by chance.

    If two candidates are equally good, which of them gave which of an item's two
    answers is arbitrary. Swapping them at random, item by item, gives the differences
    that chance produces (Fisher 1935; Noreen 1989, "approximate randomization"). Unlike
    a bootstrap p-value it stays right when only a handful of items tell the two apart:
    five wins and no loss give p = 0.0625, as the exact sign test does.

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
    middle = np.empty((len(names), n_swaps))
    half = np.empty((len(names), n_swaps))
    for task in dict.fromkeys(measure.task for measure in objective.measures):
        own = [i for i, m in enumerate(objective.measures) if m.task == task]
        if any(names[i] in mine.hows for i in own):
            n_items = len(mine.items[task])
            step = max(1, _CELLS // n_items)
            for begin in range(0, n_swaps, step):
                now = slice(begin, min(begin + step, n_swaps))
                size = (now.stop - begin, n_items)
                swaps = rng.integers(2, size=size, dtype=np.int8) > 0
                for i in own:
                    middle[i, now], half[i, now] = _mixed(mine, theirs, names[i], swaps)
            continue
        a = np.array([mine.columns[names[i]] for i in own])
        b = np.array([theirs.columns[names[i]] for i in own])
        middle[own] = ((a.mean(axis=1) + b.mean(axis=1)) / 2)[:, None]
        half[own] = _half_differences((a - b) / (2 * a.shape[1]), rng, n_swaps)
    differences = values(objective, middle + half) - values(objective, middle - half)
    scale = max(1.0, float(np.abs(middle).max()))
    as_large = int((np.abs(differences) >= seen - _ROUNDING * scale).sum())
    return (as_large + 1) / (n_swaps + 1)


def best_of_many(
    objective: Objective,
    many: Sequence[ItemScores],
    reference: ItemScores,
    rng: np.random.Generator,
    n_swaps: int = 2_000,
) -> tuple[float, ...]:
    """Return for each of many candidates a p-value corrected for there being many.

    Answers are swapped as in ``swap_test``, an item's at once in all pairs with the
    reference. A difference counts as no chance if swaps seldom give so large a one to
    any of the candidates (single-step maximum, Westfall and Young 1993): candidates
    that answer alike cost less than Bonferroni has them cost.

    Args:
        objective: What is compared.
        many: The candidates, on the items of the reference.
        reference: What each is compared with.
        rng: Decides the swaps.
        n_swaps: Number of random swaps; the smallest p-value is 1 / (n_swaps + 1).

    Raises:
        ValueError: One was scored on other items.
    """
    if any(dict(one.items) != dict(reference.items) for one in many):
        raise ValueError("A candidate was scored on other items than the reference.")
    signs = {
        task: rng.integers(2, size=(len(ids), n_swaps), dtype=np.int8) * 2.0 - 1.0
        for task, ids in reference.items.items()
    }
    largest = np.zeros(n_swaps)
    for one in many:
        middle = np.empty((len(objective.measures), n_swaps))
        half = np.empty((len(objective.measures), n_swaps))
        for i, measure in enumerate(objective.measures):
            if str(measure) in one.hows:
                swaps = signs[measure.task].T < 0
                middle[i], half[i] = _mixed(one, reference, str(measure), swaps)
                continue
            a, b = one.columns[str(measure)], reference.columns[str(measure)]
            middle[i] = (a.mean() + b.mean()) / 2
            half[i] = (a - b) @ signs[measure.task] / (2 * len(a))
        above = values(objective, middle + half)
        below = values(objective, middle - half)
        largest = np.maximum(largest, np.abs(above - below))
    found = []
    for one in many:
        seen = abs(one.value(objective) - reference.value(objective))
        as_large = int((largest >= seen - _ROUNDING * max(1.0, seen)).sum())
        found.append((as_large + 1) / (n_swaps + 1))
    return tuple(found)


def _mixed(
    mine: ItemScores, theirs: ItemScores, name: str, swaps: npt.NDArray[np.bool_]
) -> tuple[Floats, Floats]:
    """Return a measure of both sides with answers swapped: middle and half between.

    Args:
        mine: One candidate.
        theirs: The other.
        name: The measure.
        swaps: Whose answers change sides, ``(n_swaps, n_items)``.
    """
    a = mine.columns[name][..., None, :]
    b = theirs.columns[name][..., None, :]
    one = mine.put_together(name, np.where(swaps, b, a))
    other = mine.put_together(name, np.where(swaps, a, b))
    return (one + other) / 2, (one - other) / 2


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
