"""Does a candidate keep its bounds, on items that the search never saw?

Whoever is selected among many that keep a bound on the search's items tends to be one
that keeps it there by luck.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from evomerge.core.study import Constraint, Direction
from evomerge.export.intervals import Estimate, difference, estimate
from evomerge.export.markup import interval, markdown, number, table
from evomerge.export.report import Contender, scores_on


class Kept(StrEnum):
    """What may be said of a bound."""

    KEPT = "kept"
    BROKEN = "broken"
    UNCERTAIN = "uncertain"
    UNTESTED = "not tested"


@dataclass(frozen=True, slots=True)
class HeldBound:
    """A constraint and what held-out items say of it.

    Attributes:
        name: Of what is bounded.
        is_least: The value must be at least the bound, else at most.
        bound: In the units of the value; of a relative one, its distance to the
            baseline.
        relative_to: Label of a baseline, if the bound is a distance to it.
        value: Of the candidate, or its difference to the baseline, with its 95 %
            interval; of a cost without one. None where it could not be tested.
        said: Kept if the whole interval keeps the bound, broken if all of it does not.
    """

    name: str
    is_least: bool
    bound: float
    relative_to: str | None
    value: Estimate | None
    said: Kept

    @classmethod
    def of(cls, constraint: Constraint, value: Estimate | None) -> HeldBound:
        """Judge a constraint by a value and its interval."""
        objective, bound = constraint.objective, constraint.bound
        is_least = objective.direction is Direction.MAXIMIZE
        said = Kept.UNTESTED
        if value is not None:
            low, high = value.low - bound, value.high - bound
            low, high = (low, high) if is_least else (-high, -low)
            said = Kept.KEPT if low >= 0 else Kept.BROKEN if high < 0 else said
            said = Kept.UNCERTAIN if low < 0 <= high else said
        baseline = constraint.relative_to
        return cls(objective.name, is_least, bound, baseline, value, said)

    @property
    def asked(self) -> tuple[str, str]:
        """What is asked, in words: of what, and the bound."""
        what = self.name
        if self.relative_to is not None:
            what += f" minus that of {self.relative_to}"
        return what, f"{'at least' if self.is_least else 'at most'} {self.bound:g}"


def held_bounds(
    constraints: Sequence[Constraint],
    chosen: Contender,
    baselines: Mapping[str, Contender],
    recorded: Mapping[str, Mapping[str, float]],
    rng: np.random.Generator,
) -> tuple[HeldBound, ...]:
    """Test every constraint of a study on held-out items.

    Args:
        constraints: Those of the study.
        chosen: The candidate.
        baselines: Label to baseline that could be scored; the candidate itself, if it
            is one.
        recorded: Label to recorded scores, for what is no matter of items.
        rng: Decides the bootstrap's resamples.
    """
    return tuple(
        HeldBound.of(
            one,
            _on_items(one, chosen, baselines, rng)
            if one.objective.by_item
            else _recorded(one, chosen.label, recorded),
        )
        for one in constraints
    )


def _recorded(
    constraint: Constraint, label: str, recorded: Mapping[str, Mapping[str, float]]
) -> Estimate | None:
    wanted = [label, *filter(None, [constraint.relative_to])]
    if not all(name in recorded for name in wanted):
        return None
    value, *others = (constraint.objective.value(recorded[name]) for name in wanted)
    value -= sum(others)
    return Estimate(value, value, value)


def _on_items(
    constraint: Constraint,
    chosen: Contender,
    baselines: Mapping[str, Contender],
    rng: np.random.Generator,
) -> Estimate | None:
    objective = constraint.objective
    mine = scores_on(objective, chosen)
    if constraint.relative_to is None:
        return estimate(objective, mine, rng)
    baseline = baselines.get(constraint.relative_to)
    if baseline is None:
        return None
    return difference(objective, mine, scores_on(objective, baseline), rng)


def bounds_section(bounds: Sequence[HeldBound]) -> list[str]:
    """Return the bounds as Markdown."""
    rows = [
        (
            markdown(bound.asked[0]),
            markdown(bound.asked[1]),
            "" if bound.value is None else _shown(bound.value),
            str(bound.said) if bound.said is Kept.KEPT else f"**{bound.said}**",
        )
        for bound in bounds
    ]
    head = ("bound on", "asked for", "held-out items", "verdict")
    return [
        table(head, rows, is_numeric=True),
        "A bound is kept or broken where the whole 95 % interval says so, and else "
        "uncertain. Differences to a baseline are paired over the same items; costs "
        "are exact.",
    ]


def _shown(value: Estimate) -> str:
    return number(value.value) if value.low == value.high else interval(value)
