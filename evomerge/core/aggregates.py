"""Figures of all items together that are no mean of what single items have.

An outcome keeps the parts of such a metric, numbers that mean nothing alone, under
names that say how they are put together: ``mcc@matthews_corrcoef.0`` is the first part
of ``mcc``. Whoever averages metrics by their names never meets one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

Parts = Any
"""A numpy array ``(n_parts, ..., n_items)``, float64."""
_AT = "@"


@dataclass(frozen=True, slots=True)
class Aggregate:
    """How parts are put together; ``of`` reduces the last axis of ``Parts``."""

    n_parts: int
    of: Callable[[Parts], Any]


def is_part(name: str) -> bool:
    """Tell whether a recorded metric is a part of one, so that its mean is none."""
    return _AT in name


def parts_named(metric: str, how: str, values: Sequence[float]) -> dict[str, float]:
    """Return the parts of a metric of one item, by the names they are recorded under.

    Raises:
        ValueError: They are not what is put together in this way.
    """
    found = [float(value) for value in values]
    if len(found) != AGGREGATES[how].n_parts or not all(map(math.isfinite, found)):
        raise ValueError(
            f"expected {AGGREGATES[how].n_parts} numbers of an item for {metric!r} "
            f"({how}), got {list(values)!r:.80}"
        )
    if how == "f1" and not {*found} <= {0.0, 1.0}:
        raise ValueError(
            f"expected answers 0 and 1 for {metric!r} (f1), got {found}; use "
            "matthews_corrcoef for more"
        )
    return {f"{metric}{_AT}{how}.{i}": value for i, value in enumerate(found)}


def how_of(metric: str, metrics: Mapping[str, float]) -> str | None:
    """Return how a metric is put together of an item's parts; None if it is none."""
    start = f"{metric}{_AT}"
    named = next((name for name in metrics if name.startswith(start)), None)
    return None if named is None else named[len(start) :].rpartition(".")[0]


def parts_of(metric: str, how: str, metrics: Mapping[str, float]) -> list[float]:
    """Return an item's parts of a metric.

    Raises:
        KeyError: It has none of this kind.
    """
    names = (f"{metric}{_AT}{how}.{i}" for i in range(AGGREGATES[how].n_parts))
    return [metrics[name] for name in names]


def score_of(metric: str, items: Sequence[Mapping[str, float]]) -> float:
    """Return a metric over items: their exact mean, or what their parts give.

    Raises:
        KeyError: An item lacks it.
    """
    how = None if metric in items[0] else how_of(metric, items[0])
    if how is None:
        return math.fsum(item[metric] for item in items) / len(items)
    import numpy as np

    table = np.array([parts_of(metric, how, item) for item in items]).T
    return float(AGGREGATES[how].of(table))


def _sum(values: Any) -> Any:
    """Add up the last axis; exactly where it is the only one."""
    import numpy as np

    return np.float64(math.fsum(values)) if values.ndim == 1 else values.sum(axis=-1)


def _mean(parts: Parts) -> Any:
    return _sum(parts[0]) / parts.shape[-1]


def _perplexity(parts: Parts) -> Any:
    import numpy as np

    return np.exp(-_mean(parts))


def _weighted_perplexity(parts: Parts) -> Any:
    import numpy as np

    return np.exp(-_sum(parts[0]) / _sum(parts[1]))


def _bits_per_byte(parts: Parts) -> Any:
    return -_sum(parts[0]) / _sum(parts[1]) / math.log(2)


def _f1(parts: Parts) -> Any:
    """Harmonic mean of precision and recall of the answer 1; 0 where it never is."""
    import numpy as np

    gold, told = parts
    total = gold.sum(axis=-1) + told.sum(axis=-1)
    return 2 * (gold * told).sum(axis=-1) / np.where(total > 0, total, 1.0)


def _matthews(parts: Parts) -> Any:
    """Correlation of answers and truth (Matthews 1975; of many kinds, Gorodkin 2004).

    0 where one of them is always the same.
    """
    import numpy as np

    gold, told = parts
    n = gold.shape[-1]
    counts = [
        ((gold == kind).sum(axis=-1), (told == kind).sum(axis=-1))
        for kind in np.unique(parts)
    ]
    both = n * (gold == told).sum(axis=-1) - sum(g * t for g, t in counts)
    of_gold = n * n - sum(g * g for g, _ in counts)
    of_told = n * n - sum(t * t for _, t in counts)
    size = np.sqrt(of_gold.astype(np.float64) * of_told)
    return both / np.where(size > 0, size, 1.0)


AGGREGATES: Mapping[str, Aggregate] = {
    "mean": Aggregate(1, _mean),
    "perplexity": Aggregate(1, _perplexity),
    "weighted_perplexity": Aggregate(2, _weighted_perplexity),
    "bits_per_byte": Aggregate(2, _bits_per_byte),
    "f1": Aggregate(2, _f1),
    "matthews_corrcoef": Aggregate(2, _matthews),
}
"""By their names in lm-eval; parts are what its tasks give of an item, in order."""
