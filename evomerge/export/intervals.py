"""How sure is a value: intervals of objectives, and of differences between candidates.

An objective is a weighted mean of measures, and may count the worst of them once more.
Where several measures are about equally bad, the least of their averages lies below
the least of what they estimate, and resampling doubles that error, so percentiles of a
bootstrap miss the truth too often, and always on the same side. Intervals are therefore
built in two steps:

1. Around the mean of the items, with the weights that the measures have where this one
   is the worst, measure by measure within an item and task by task. Right and wrong
   answers get the pseudo-answers of Agresti and Coull (1998), shared out over the tasks
   (Price and Bonett 2004), differences of them those of Bonett and Price (2012).
2. Stretched by one and a half times the error of the worst measure that a bootstrap
   finds, to the side where the truth then is.

Where a measure is no mean of items (F1, perplexity), the whole objective is computed
anew from each resample of the items, and the interval has its percentiles.

`benchmarks/interval_coverage.py` counts how often they hold the truth; RESULTS.md has
its table.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.item_scores import Floats, ItemScores

N_RESAMPLES = 2_000
_STRETCH = 1.5
_CELLS = 1 << 20  # resampled items held at once: bounds the memory

_Side = tuple[float, ItemScores]


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


def estimate(
    objective: Objective,
    scores: ItemScores,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:
    """Return a candidate's objective with its interval.

    Args:
        objective: What is estimated.
        scores: The candidate's.
        rng: Decides the resamples; nothing is drawn for an objective without a worst
            measure.
        n_resamples: Number of resamples.
        confidence: Of the interval.
    """
    if len(objective.measures) == 1 and not objective.worst:
        column = scores.columns[str(objective.measures[0])]
        if not scores.hows and _is_binary(column):
            return wilson(int(column.sum()), len(column), confidence)
    return _interval(objective, [(1.0, scores)], rng, n_resamples, confidence)


def difference(
    objective: Objective,
    mine: ItemScores,
    theirs: ItemScores,
    rng: np.random.Generator,
    *,
    n_resamples: int = N_RESAMPLES,
    confidence: float = 0.95,
) -> Estimate:
    """Return my objective minus theirs, paired item by item, with its interval.

    Two candidates that agree at every item get a width too: there may be items at
    which they don't.

    Args:
        objective: What is compared.
        mine: One candidate.
        theirs: The other, on the same items.
        rng: As in ``estimate``.
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
    sides = [(1.0, mine), (-1.0, theirs)]
    return _interval(objective, sides, rng, n_resamples, confidence)


def wilson(successes: int, n: int, confidence: float = 0.95) -> Estimate:
    """Return a proportion with its Wilson score interval (Wilson 1927).

    One to three successes, or failures, get the end of a Poisson count, since Wilson's
    excludes the truth too often there (Brown, Cai and DasGupta 2001, section 4.1.1).

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
    low = min(middle - half, _rare(successes, confidence) / n)
    high = max(middle + half, 1 - _rare(n - successes, confidence) / n)
    return Estimate(share, max(0.0, low), min(1.0, high))


def _rare(count: int, confidence: float) -> float:
    """Return the mean at which so many rare events, or more, come by chance."""
    if count == 0:
        return 0.0
    if count > 3:
        return math.inf
    low, high = 0.0, float(count)
    for _ in range(60):
        mean = (low + high) / 2
        fewer = sum(mean**k / math.factorial(k) for k in range(count))
        seldom = 1 - math.exp(-mean) * fewer < 1 - confidence
        low, high = (mean, high) if seldom else (low, mean)
    return low


def _interval(
    objective: Objective,
    sides: Sequence[_Side],
    rng: np.random.Generator,
    n_resamples: int,
    confidence: float,
) -> Estimate:
    """Return the sum of the sides' objectives, each with its sign."""
    value = sum(sign * scores.value(objective) for sign, scores in sides)
    if any(scores.hows for _, scores in sides):
        # No mean of items: what a bootstrap finds between its percentiles.
        drawn = _resampled(objective, sides, rng, n_resamples)
        tail = (1 - confidence) / 2
        low, high = map(float, np.quantile(drawn, [tail, 1 - tail]))
        return Estimate(value, min(low, value), max(high, value))
    weights = [_weights(objective, scores) for _, scores in sides]
    tasks = list(dict.fromkeys(measure.task for measure in objective.measures))
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    centre = square = 0.0
    for task in tasks:
        mine = [
            (sign * weight, scores.columns[str(measure)])
            for (sign, scores), side in zip(sides, weights, strict=True)
            for measure, weight in side.items()
            if measure.task == task
        ]
        # Pseudo-answers of either kind, over all tasks: for shares 2, for pairs 1.
        mean, half = _around(mine, (3 - len(sides)) / len(tasks), z)
        centre, square = centre + mean, square + half * half
    low, high = centre - math.sqrt(square), centre + math.sqrt(square)
    if objective.worst:
        drawn = _resampled(objective, sides, rng, n_resamples)
        stretch = _STRETCH * (value - float(drawn.mean()))
        low, high = low + min(0.0, stretch), high + max(0.0, stretch)
    return Estimate(value, min(low, value), max(high, value))


def _weights(objective: Objective, scores: ItemScores) -> Mapping[Measure, float]:
    """Return what each measure counts, where the one that is worst now stays so."""
    total = sum(objective.weights)
    out: dict[Measure, float] = {}
    for measure, weight in zip(objective.measures, objective.weights, strict=True):
        out[measure] = out.get(measure, 0.0) + weight / total
    if objective.worst:
        sign = 1 if objective.direction is Direction.MAXIMIZE else -1
        worst = min(out, key=lambda m: sign * float(scores.columns[str(m)].mean()))
        out[worst] += objective.worst
    return out


def _around(
    columns: Sequence[tuple[float, Floats]], extra: float, z: float
) -> tuple[float, float]:
    """Return the middle and half the width of the interval of what a task adds.

    Args:
        columns: Weight, negative for what is taken away, and values of each measure.
        extra: Pseudo-answers of either kind, if all answers are right or wrong.
        z: Quantile of the normal distribution.
    """
    values = sum((weight * column for weight, column in columns), np.zeros(1))
    n = len(values)
    t = _student(z, max(1, n - 1))
    if not all(_is_binary(column) for _, column in columns):
        mean = float(values.mean())
        # The spread of a single item is not known: its own size stands for it.
        spread = float(values.std(ddof=1)) if n > 1 else abs(mean)
        return mean, t * spread / math.sqrt(n)
    gained = sum(weight for weight, _ in columns if weight > 0)
    lost = sum(weight for weight, _ in columns if weight < 0)
    total = n + 2 * extra
    mean = (float(values.sum()) + extra * (gained + lost)) / total
    square = float(values @ values) + extra * (gained * gained + lost * lost)
    return mean, t * math.sqrt(max(0.0, square / total - mean * mean) / total)


def _student(z: float, freedom: int) -> float:
    """Return Student's t at the normal quantile ``z`` (Cornish and Fisher 1938)."""
    return (
        z
        + (z**3 + z) / (4 * freedom)
        + (5 * z**5 + 16 * z**3 + 3 * z) / (96 * freedom**2)
        + (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / (384 * freedom**3)
    )


def _resampled(
    objective: Objective,
    sides: Sequence[_Side],
    rng: np.random.Generator,
    n_resamples: int,
) -> Floats:
    """Return the sum of the sides in each resample, stratified by task: ``(n,)``.

    All sides and all measures of a task are drawn with the same items.
    """
    names = [str(measure) for measure in objective.measures]
    means = np.empty((len(sides), len(names), n_resamples))
    for task in dict.fromkeys(measure.task for measure in objective.measures):
        mine = [i for i, m in enumerate(objective.measures) if m.task == task]
        n_items = sides[0][1].columns[names[mine[0]]].shape[-1]
        step = max(1, _CELLS // n_items)
        for begin in range(0, n_resamples, step):
            n = min(step, n_resamples - begin)
            drawn = rng.integers(n_items, size=(n, n_items))
            for (i, (_, scores)), j in itertools.product(enumerate(sides), mine):
                items = scores.columns[names[j]].take(drawn, axis=-1)
                told = scores.put_together(names[j], items)
                means[i, j, begin : begin + n] = told
    signs = np.array([sign for sign, _ in sides])
    return np.asarray(signs @ np.array([values(objective, one) for one in means]))


def values(objective: Objective, means: Floats) -> Floats:
    """Combine measures as the objective does: ``(n_measures, n)`` to ``(n,)``."""
    weights = np.array(objective.weights, dtype=np.float64)
    value = weights @ means / weights.sum()
    if objective.worst:
        more = objective.direction is Direction.MAXIMIZE
        extreme = means.min(axis=0) if more else means.max(axis=0)
        value = value + objective.worst * extreme
    return np.asarray(value)


def _is_binary(column: Floats) -> bool:
    return bool(np.isin(column, (0.0, 1.0)).all())
