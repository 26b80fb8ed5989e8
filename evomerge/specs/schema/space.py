"""The ``space:`` of a study: what is merged, and which choices are open.

Its ``flow:`` says which layers run, in which order, how strongly.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StrictFloat, StrictInt, Tag, model_validator

from evomerge.specs.reading.spec import Few, Listed, Name, PartName, Spec, Value


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

    kind: PartName = Field(
        description="`gates` (all layers in series, each on or off), `edits` (the "
        "first source after a few edits), `donors` (a source for every layer), "
        "`switches` (the source changes at a few layers), `slices` (runs of layers, "
        "one after another) or `block` (neighbouring layers of one source run again)."
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
    blocks: Few | None = Field(
        default=None, description="For `block`: how many at most; 1 if not given."
    )
    times: Few | None = Field(
        default=None,
        description="For `block`: how often one runs at most, from twice on; 2 if not "
        "given.",
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


Ends = Literal["own", "nearest"]
Policy = Literal["linear", "same", "base"]
Part = Literal["vision", "audio", "projector", "prediction", "classifier"]


class By(Spec):
    """How finely a searched knob varies over the model."""

    depth: Few | None = Field(
        default=None,
        description="Control points spread evenly over the depth, straight lines "
        "between them: `depth: 3` is one value each for first, middle and last layer.",
    )
    groups: Few | None = Field(
        default=None,
        description="Consecutive layers that share a value; `groups: 1` gives every "
        "layer its own. The last group may be short.",
    )
    roles: Literal["split", "shared"] = Field(
        default="shared",
        description="`split` decides attention, feed-forward and all other tensors "
        "(embedding, norms, biases, routers, head) separately.",
    )
    ends: Ends = Field(
        default="nearest",
        description="`own` gives the embedding and the head a value each; `nearest` "
        "lets them follow the first and the last layer.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.depth is not None and self.groups is not None:
            raise ValueError("expected depth or groups, got both; keep one")
        return self


def _by(value: Any) -> Any:
    return "<global>" if isinstance(value, str) else "<by>"


class Search(Spec):
    """An open knob; what is not said comes from the catalogue of operators."""

    low: float | None = Field(default=None, description="Smallest value.")
    high: float | None = Field(default=None, description="Largest value.")
    start: Value | None = Field(
        default=None,
        description="Where the search begins; else at "
        "the operator's own default, or in the middle.",
    )
    log: bool | None = Field(default=None, description="Search on a logarithmic scale.")
    grid: float | None = Field(
        default=None,
        gt=0.0,
        description="Values are rounded to steps of this size, counted from `low`; "
        "else 1/1000 of the range.",
    )
    choices: tuple[Value, ...] | None = Field(
        default=None,
        min_length=1,
        description="The values to choose from, for worded knobs.",
    )
    by: Annotated[
        Annotated[Literal["global"], Tag("<global>")] | Annotated[By, Tag("<by>")],
        Discriminator(_by),
    ] = Field(
        default="global",
        description="How finely the knob varies over the model: `global`, or a "
        "mapping with `depth` or `groups`, and `roles` and `ends`.",
    )
    per_input: Literal["each", "shared"] = Field(
        default="each",
        description="For knobs that every expert has: `each` searches one value per "
        "expert, `shared` one value for all of them.",
    )

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.low is not None and self.high is not None and self.low >= self.high:
            raise ValueError(
                f"expected low below high, got low {self.low:g} and high {self.high:g}"
            )
        if self.log and self.low is not None and self.low <= 0:
            raise ValueError(
                f"expected low above 0 on a logarithmic scale, got {self.low:g}"
            )
        return self

    @property
    def layout(self) -> By:
        """How the knob varies, in the long form."""
        return By() if self.by == "global" else self.by


Points = Annotated[
    tuple[StrictFloat | StrictInt, ...], Field(min_length=1, max_length=4096)
]
"""Fixed control points over the depth."""


def _single(value: Any) -> str:
    if isinstance(value, Search):
        return "<search>"
    if isinstance(value, Mapping):
        return "<search>"
    if isinstance(value, list | tuple):
        return "<points>"
    return "<open>" if value == "search" else "<value>"


_SEARCH_KEYS = frozenset(Search.model_fields)


def _knob(value: Any) -> str:
    if isinstance(value, Mapping) and value and not _SEARCH_KEYS.intersection(value):
        return "<inputs>"
    return _single(value)


One = Annotated[
    Annotated[Value, Tag("<value>")]
    | Annotated[Literal["search"], Tag("<open>")]
    | Annotated[Points, Tag("<points>")]
    | Annotated[Search, Tag("<search>")],
    Discriminator(_single),
]
"""A knob of one input: a value, control points, or a search."""

KnobSpec = Annotated[
    Annotated[Value, Tag("<value>")]
    | Annotated[Literal["search"], Tag("<open>")]
    | Annotated[Points, Tag("<points>")]
    | Annotated[Search, Tag("<search>")]
    | Annotated[dict[Name, One], Tag("<inputs>")],
    Discriminator(_knob),
]
"""A knob: as above, or a mapping from expert to one of these."""


class MergeSpec(Spec):
    """What is merged, and how."""

    operator: Annotated[tuple[str, ...], Listed] = Field(
        min_length=1,
        description="How the parents are merged; a list leaves the choice open.",
    )
    base: Name | None = Field(
        default=None,
        description="The parent whose differences to the others are merged, for "
        "operators that need one.",
    )
    experts: tuple[Name, ...] = Field(
        default=(),
        description="The parents that are merged, in order; all sources but the base "
        "if not given.",
    )
    knobs: dict[str, KnobSpec] = Field(
        default_factory=dict,
        description="Knob of the operator to a value, a list of control points over "
        "the depth, a search, or a mapping from expert to one of these. "
        "`operator.knob` speaks of one operator where several are open.",
    )
    norm_policy: Annotated[tuple[Policy, ...], Listed] = Field(
        default=(),
        description="How norms and biases are merged: `linear`, by the `same` "
        "operator, or taken from the `base`; as suits the operator if not given. "
        "A list leaves the choice open.",
    )
    embed_policy: Annotated[tuple[Policy, ...], Listed] = Field(
        default=(),
        description="The same for the embedding and the head.",
    )
    state_policy: Annotated[tuple[Policy, ...], Listed] | None = Field(
        default=None,
        description="The same for decay, step and convolution of recurrent blocks, and "
        "for scalars of a layer; as norms and biases if not given.",
    )
    unknown: Literal["linear", "from_base"] | None = Field(
        default=None,
        description="What becomes of tensors that no rule covers, which are an error "
        "if not given: merged `linear`, or taken `from_base` (from the frame without "
        "one).",
    )
    parts: dict[Part, str] | None = Field(
        default=None,
        description="What becomes of parts beside the text decoder (`vision`, `audio`, "
        "`projector`, `prediction` for layers that predict further tokens, "
        "`classifier` for heads that give no tokens): `from_base`, `linear`, by the "
        "`same` operator, or the source they are taken from. The frame's are taken "
        "over as they are stored if not given.",
    )


class SpaceSpec(MergeSpec):
    """What is merged, and which choices are open."""

    operator: Annotated[tuple[str, ...], Listed] = Field(
        default=(),
        description="How the parents are merged; a list leaves the choice open. "
        "Needed unless `flow` only has layers of the sources as they stand.",
    )
    flow: FlowSpec | None = Field(
        default=None,
        description="Which layers run, in which order, how strongly; the layers of "
        "the frame in their order if not given.",
    )
