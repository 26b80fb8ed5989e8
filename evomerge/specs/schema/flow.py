"""The ``flow:`` of a space: which layers run, in which order, how strongly."""

from __future__ import annotations

import math
from typing import Annotated, Literal, Self

from pydantic import Field, model_validator

from evomerge.specs.reading.spec import Few, Listed, Name, Spec

Kind = Literal["gates", "edits", "donors", "switches", "slices"]


class ScaleSpec(Spec):
    """The range of scales, searched on their logarithm."""

    low: float = Field(
        default=math.exp(-1),
        gt=0.0,
        le=1.0,
        description="Smallest scale, at most 1; exp(-1) if not given.",
    )
    high: float = Field(
        default=math.e,
        ge=1.0,
        description="Largest scale, at least 1; exp(1) if not given.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low == self.high:
            raise ValueError("expected low below high, got 1 for both")
        if not math.isfinite(self.high / self.low):
            raise ValueError("expected bounds whose ratio is a number")
        return self


class DepthSpec(Spec):
    """How many layers may run."""

    min: Few | None = Field(
        default=None,
        description="Fewest layers that run; half of the first source's if not given.",
    )
    max: Few | None = Field(
        default=None,
        description="Most layers that run; twice the first source's if not given, or "
        "as many as the kind can make.",
    )


class FlowSpec(Spec):
    """Which layers run, in which order, how strongly."""

    kind: Kind = Field(
        description="`gates` (all layers in series, each on or off), `edits` (the "
        "first source after a few edits), `donors` (a source for every layer), "
        "`switches` (the source changes at a few layers) or `slices` (runs of layers, "
        "one after another)."
    )
    sources: tuple[Name, ...] = Field(
        default=(),
        description="Whose layers, in order; the search begins with the first as it "
        "stands. `merge` is the merge that the same candidate's operator makes. If "
        "not given: `merge` where there is an operator, then all experts.",
    )
    repeats: Few | None = Field(
        default=None, description="For `gates`: how often the series is repeated."
    )
    edits: Few | None = Field(
        default=None, description="For `edits`: how many at most; 4 if not given."
    )
    switches: Few | None = Field(
        default=None, description="For `switches`: how many at most; 2 if not given."
    )
    slices: Few | None = Field(
        default=None, description="For `slices`: how many at most; 3 if not given."
    )
    scales: Literal["none", "layer", "edge", "full"] = Field(
        default="none",
        description="Factors on the hidden state that enters a layer: one for each "
        "`layer` that runs, one for each `edge` (a layer that does not follow the one "
        "before it in its own source), or a `full` matrix with one for every pair of "
        "layers.",
    )
    scale: ScaleSpec = Field(
        default_factory=ScaleSpec,
        description="The range of scales, searched on their logarithm from 1.",
    )
    export: bool = Field(
        default=True,
        description="Refuse scales that could not be written into the weights of an "
        "ordinary model; `false` allows them, and no such stack can be exported.",
    )
    depth: DepthSpec = Field(
        default_factory=DepthSpec, description="How many layers may run."
    )
    pin: Literal["ends", "none"] = Field(
        default="ends",
        description="`ends` begins every stack with the first layer of the first "
        "source and ends it with its last; `none` leaves both open.",
    )
    embed: Annotated[tuple[Name, ...], Listed] = Field(
        default=(),
        description="Whose token embedding; the first source's if not given. A list "
        "leaves the choice open.",
    )
    head: Annotated[tuple[Name, ...], Listed] = Field(
        default=(),
        description="Whose final norm and output head; the first source's if not "
        "given. A list leaves the choice open.",
    )
