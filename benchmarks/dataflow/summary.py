"""Means over seeds with their intervals, and paired differences."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from dataflow.search import Result
from dataflow.setting import PS, VARIANTS

_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)
"""The 97.5 % quantile of Student's t for 1 to 9 degrees of freedom."""


@dataclass(frozen=True, slots=True)
class Mean:
    """A mean over seeds and half the width of its 95 % t-interval.

    Attributes:
        half: None for a single seed.
    """

    value: float
    half: float | None

    @classmethod
    def of(cls, values: Sequence[float]) -> Mean:
        """Summarise one value for each seed."""
        n = len(values)
        if n < 2:
            return cls(fmean(values), None)
        # Beyond the table the quantile is within 2 % of this.
        t = _T[n - 2] if n - 2 < len(_T) else 1.96 + 2.4 / (n - 1)
        return cls(fmean(values), t * stdev(values) / math.sqrt(n))


@dataclass(frozen=True, slots=True)
class Row:
    """One variant in one setting.

    Attributes:
        seeds: Those that are done.
        sealed: The winner's objective on held-out items.
        search: The same on the items it was chosen by.
        against: Held-out objective minus that of PS with the same seed; None for PS
            itself and where no seed has both.
        means: Task measure to its mean on held-out items.
        layers: Mean number of layers that winners run.
        repeated: Share of candidates that had been met before.
        curve: Mean over seeds of the best so far, candidate by candidate.
    """

    variant: str
    seeds: tuple[int, ...]
    sealed: Mean
    search: Mean
    against: Mean | None
    means: Mapping[str, float]
    layers: float
    repeated: float
    curve: tuple[float, ...]


def rows(results: Sequence[Result]) -> list[Row]:
    """Summarise the results of one setting, in the order of ``VARIANTS``."""
    plain = {r.seed: r.sealed for r in results if r.variant == PS}
    found = []
    for variant in VARIANTS:
        some = sorted((r for r in results if r.variant == variant), key=_seed)
        if some:
            found.append(_row(variant, some, plain))
    return found


def rivals(results: Sequence[Result]) -> dict[str, float]:
    """Return label and held-out objective of every baseline, best first."""
    every = {label: value for r in results for label, value in r.rivals.items()}
    return dict(sorted(every.items(), key=lambda item: -item[1]))


def _row(variant: str, some: Sequence[Result], plain: Mapping[int, float]) -> Row:
    pairs = [r.sealed - plain[r.seed] for r in some if r.seed in plain]
    names = sorted({name for r in some for name in r.means})
    return Row(
        variant=variant,
        seeds=tuple(r.seed for r in some),
        sealed=Mean.of([r.sealed for r in some]),
        search=Mean.of([r.search for r in some]),
        against=Mean.of(pairs) if pairs and variant != PS else None,
        means={name: fmean(r.means[name] for r in some) for name in names},
        layers=fmean(r.layers for r in some),
        repeated=fmean(r.repeated / r.trials for r in some),
        curve=tuple(map(fmean, zip(*(r.curve for r in some), strict=False))),
    )


def _seed(result: Result) -> int:
    return result.seed
