"""``objectives:``, ``constraints:`` and ``budget:`` of a study."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from evomerge.specs.reading.spec import Name, Positive, Spec

Weight = Annotated[float, Field(gt=0.0)]
MeasureText = Annotated[str, Field(min_length=1)]


def _means(value: Any) -> str:
    return "<weights>" if isinstance(value, Mapping) else "<list>"


Means = Annotated[
    Annotated[tuple[MeasureText, ...], Field(min_length=1), Tag("<list>")]
    | Annotated[dict[MeasureText, Weight], Field(min_length=1), Tag("<weights>")],
    Discriminator(_means),
]
"""Several measures, alike or weighted."""


class ObjectiveSpec(Spec):
    """A number to improve."""

    name: Name | None = Field(
        default=None,
        description="What the objective is called; its measure if not given.",
    )
    direction: Literal["maximize", "minimize"] | None = Field(
        default=None,
        description="Which way is better; the metric's own, as its task says, if not "
        "given. Tokens, truncated answers and costs are minimised, speed is maximised.",
    )
    measure: MeasureText | None = Field(
        default=None,
        description="`task/metric`, `task/tokens`, `task/truncated`, or `task` alone "
        "for its own metric; `*` stands for every task. Or `cost/layers` and the like: "
        "what a model costs.",
    )
    mean_of: Means | None = Field(
        default=None,
        description="Several measures: a list for their mean, or a mapping from "
        "measure to weight.",
    )
    worst: float = Field(
        default=0.0,
        ge=0.0,
        description="Extra weight of the worst measure, added to the mean: 0.5 asks "
        "for balance.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.measure is None) == (self.mean_of is None):
            got = "neither" if self.measure is None else "both"
            raise ValueError(f"expected either measure or mean_of, got {got}")
        return self


class ConstraintSpec(Spec):
    """A bound that every point of the front must keep."""

    objective: Name | None = Field(
        default=None, description="The objective that is bounded."
    )
    measure: MeasureText | None = Field(
        default=None,
        description="The measure that is bounded, written as in an objective.",
    )
    at_least: float | None = Field(default=None, description="Smallest value allowed.")
    at_most: float | None = Field(default=None, description="Largest value allowed.")
    drop_at_most: float | None = Field(
        default=None, ge=0.0, description="Farthest it may fall below the baseline."
    )
    rise_at_most: float | None = Field(
        default=None, ge=0.0, description="Farthest it may rise above the baseline."
    )
    relative_to: str | None = Field(
        default=None,
        min_length=1,
        description="The baseline compared with: a source, `uniform`, or the label of "
        "another baseline or start.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.measure is None) == (self.objective is None):
            got = "neither" if self.measure is None else "both"
            raise ValueError(f"expected either measure or objective, got {got}")
        bounds = ("at_least", "at_most", "drop_at_most", "rise_at_most")
        given = [name for name in bounds if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError(
                f"expected one of {', '.join(bounds)}, "
                f"got {' and '.join(given) or 'none'}"
            )
        if self.relative_to is None and given[0] in ("drop_at_most", "rise_at_most"):
            raise ValueError(
                f"expected relative_to beside {given[0]}, naming a baseline, got none"
            )
        return self


class BudgetSpec(Spec):
    """When to stop; whatever is reached first."""

    trials: Positive | None = Field(
        default=None,
        description="Candidates asked of the strategy; baselines are free.",
    )
    items: Positive | None = Field(
        default=None, description="Scored items; those already known are not counted."
    )
    seconds: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="Wall time over all runs of the study, in seconds."
    )
    minutes: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="The same in minutes."
    )
    hours: Annotated[float, Field(gt=0.0)] | None = Field(
        default=None, description="The same in hours."
    )

    @model_validator(mode="after")
    def _limited(self) -> Self:
        times = [t for t in ("seconds", "minutes", "hours") if getattr(self, t)]
        if len(times) > 1:
            raise ValueError(
                f"expected one unit of time, got {' and '.join(times)}; keep one"
            )
        if self.trials is None and self.items is None and not times:
            raise ValueError(
                "expected at least one of trials, items, seconds, minutes, hours"
            )
        return self

    @property
    def total_seconds(self) -> float | None:
        """The limit of wall time, in seconds."""
        if self.minutes is not None:
            return self.minutes * 60.0
        return self.seconds if self.hours is None else self.hours * 3600.0
