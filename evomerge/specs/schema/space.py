"""The ``space:`` of a study: what is merged, and which choices are open."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import Discriminator, Field, StrictFloat, StrictInt, Tag, model_validator

from evomerge.specs.reading.spec import Few, Listed, Name, Spec, Value
from evomerge.specs.schema.flow import FlowSpec

Ends = Literal["own", "nearest"]
Policy = Literal["linear", "same", "base"]


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
