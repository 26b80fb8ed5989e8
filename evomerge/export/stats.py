"""How sure is a difference: paired bootstrap, swapped answers, intervals, Holm.

Export and reports call this with the outcomes of held-out items. Two candidates are
always compared on the same items; an item's outcomes stay together in every
resample, over candidates and over the measures of its task.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from statistics import NormalDist

import numpy as np

from evomerge.core.study import Direction, Objective
from evomerge.export.item_scores import Floats, ItemScores

N_RESAMPLES = 10_000
_CELLS = 1 << 20  # resampled or swapped items held at once: bounds the memory
N_SWAPS = 10_000
_ROUNDING = 1e-12  # sums in another order must not look smaller


class Verdict(StrEnum):
    """What a comparison lets us say."""

    GAIN = "gain"
    LOSS = "loss"
    NONE = "no detectable gain"


@dataclass(frozen=True, slots=True)
class Estimate:
    """A value with its interval.

    Attributes:
        value: As measured on all items.
        low: Lower end of the interval.
        high: Upper end of the interval.
    """

    value: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Comparison:
    """One candidate against another on the same items.

    Attributes:
        difference: Mine minus theirs, as measured, with its interval.
        p_value: Two-sided, of "no difference".
        mine: My value.
        theirs: Their value.
        n_items: Items used, over all tasks.
    """

    difference: Estimate
    p_value: float
    mine: float
    theirs: float
    n_items: int


def compare(
    objective: Objective,
    mine: ItemScores,
    theirs: ItemScores,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> Comparison:
    """Compare two candidates by a paired bootstrap, stratified by task.

    Every resample draws the items of each task with replacement, the same items for
    both candidates, and computes the difference of the whole objective, so ``worst``
    is treated as it is used. The interval is the percentile interval, and the p-value
    inverts it (Efron and Tibshirani 1993, sections 13.3 and 15.4): twice the smaller
    share of resamples on either side of 0, with one added to numerator and
    denominator. Both assume some tens of items a task; with few items, and where all
    agree, they promise too much: see ``swap_test``.

    Args:
        objective: What is compared.
        mine: One candidate.
        theirs: The other, on the same items.
        rng: Decides the resamples.
        n_resamples: Number of resamples.
        confidence: Of the interval.

    Raises:
        ValueError: The two were scored on different items.
    """
    if dict(mine.items) != dict(theirs.items):
        raise ValueError(
            "The two candidates were scored on different items; score both on the "
            "items of one manifest."
        )
    draws = _resample(objective, (mine, theirs), rng, n_resamples)
    differences = draws[0] - draws[1]
    values = mine.value(objective), theirs.value(objective)
    low, high = _percentiles(differences, confidence)
    below = int((differences <= 0).sum())
    above = int((differences >= 0).sum())
    p_value = min(1.0, 2 * (min(below, above) + 1) / (n_resamples + 1))
    return Comparison(
        difference=Estimate(values[0] - values[1], low, high),
        p_value=p_value,
        mine=values[0],
        theirs=values[1],
        n_items=sum(len(ids) for ids in mine.items.values()),
    )


def estimate(
    objective: Objective,
    scores: ItemScores,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:
    """Return a candidate's objective with its bootstrap percentile interval.

    Arguments as in ``compare``.
    """
    draws = _resample(objective, (scores,), rng, n_resamples)[0]
    low, high = _percentiles(draws, confidence)
    return Estimate(scores.value(objective), low, high)


def verdict(
    objective: Objective,
    comparison: Comparison,
    p_value: float | None = None,
    alpha: float = 0.05,
) -> Verdict:
    """Say what a comparison shows.

    Args:
        objective: Its direction says which side is better.
        comparison: Mine against theirs.
        p_value: Adjusted for several comparisons; None takes the comparison's own.
        alpha: Largest p-value that counts.
    """
    p = comparison.p_value if p_value is None else p_value
    low, high = comparison.difference.low, comparison.difference.high
    if objective.direction is Direction.MINIMIZE:
        low, high = -high, -low
    if p < alpha and low > 0:
        return Verdict.GAIN
    if p < alpha and high < 0:
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


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return a proportion with its Wilson score interval (Wilson 1927).

    Raises:
        ValueError: ``n`` is not positive, or ``successes`` not within 0 and ``n``.
    """
    if n <= 0 or not 0 <= successes <= n:
        raise ValueError(f"Expected 0 <= successes <= n, n > 0; got {successes}, {n}.")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / n
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = (
        math.sqrt(share * (1 - share) / n + z * z / (4 * n * n)) * z / (1 + z * z / n)
    )
    # The ends are exact at 0 and n; rounding must not push them past the value.
    low = 0.0 if successes == 0 else max(0.0, middle - half)
    high = 1.0 if successes == n else min(1.0, middle + half)
    return Estimate(share, low, high)


def _resample(
    objective: Objective,
    candidates: Sequence[ItemScores],
    rng: np.random.Generator,
    n_resamples: int,
) -> Floats:
    """Return the objective of each candidate, shape ``(n_candidates, n_resamples)``."""
    names = [str(measure) for measure in objective.measures]
    means = np.empty((len(candidates), len(names), n_resamples))
    for task in dict.fromkeys(measure.task for measure in objective.measures):
        mine = [i for i, m in enumerate(objective.measures) if m.task == task]
        # One table a task: every column is drawn with the same items.
        table = np.array([[c.columns[names[i]] for i in mine] for c in candidates])
        means[:, mine] = _mean_draws(table, rng, n_resamples)
    weights = np.array(objective.weights, dtype=np.float64)
    out = np.einsum("k,ckr->cr", weights / weights.sum(), means)
    if objective.worst:
        better_is_more = objective.direction is Direction.MAXIMIZE
        extreme = means.min(axis=1) if better_is_more else means.max(axis=1)
        out = out + objective.worst * extreme
    return np.asarray(out)


def _mean_draws(table: Floats, rng: np.random.Generator, n_resamples: int) -> Floats:
    """Return means over resampled items: ``(..., n_items)`` to ``(..., n)``."""
    n_items = table.shape[-1]
    out = np.empty((*table.shape[:-1], n_resamples))
    step = max(1, _CELLS // n_items)
    for begin in range(0, n_resamples, step):
        n = min(step, n_resamples - begin)
        drawn = rng.integers(n_items, size=(n, n_items))
        for index in np.ndindex(*table.shape[:-1]):
            means = table[index].take(drawn).mean(axis=-1)
            out[(*index, slice(begin, begin + n))] = means
    return out


def _percentiles(draws: Floats, confidence: float) -> tuple[float, float]:
    tail = (1 - confidence) / 2
    low, high = np.quantile(draws, [tail, 1 - tail])
    return float(low), float(high)


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
        middle = np.empty(len(objective.measures))
        half = np.empty((len(objective.measures), n_swaps))
        for i, measure in enumerate(objective.measures):
            a, b = one.columns[str(measure)], reference.columns[str(measure)]
            middle[i] = (a.mean() + b.mean()) / 2
            half[i] = (a - b) @ signs[measure.task] / (2 * len(a))
        above = _values(objective, middle[:, None] + half)
        below = _values(objective, middle[:, None] - half)
        largest = np.maximum(largest, np.abs(above - below))
    found = []
    for one in many:
        seen = abs(one.value(objective) - reference.value(objective))
        as_large = int((largest >= seen - _ROUNDING * max(1.0, seen)).sum())
        found.append((as_large + 1) / (n_swaps + 1))
    return tuple(found)


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
