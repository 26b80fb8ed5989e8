"""The study file: one YAML mapping that says all about a search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BeforeValidator,
    Discriminator,
    Field,
    Tag,
    model_validator,
)

from evomerge.checkpoints.alignment import Missing
from evomerge.core.work import engine_problem
from evomerge.specs.reading.spec import (
    Allowed,
    Few,
    Name,
    PartName,
    Positive,
    Spec,
    Value,
)
from evomerge.specs.schema.measures import (
    BudgetSpec,
    ConstraintSpec,
    Include,
    ObjectiveSpec,
    StudyItemsSpec,
    TaskSpec,
)
from evomerge.specs.schema.space import Points, SpaceSpec

EngineDtype = Literal["float32", "bfloat16", "float16"]
Dtype = EngineDtype | Literal["stored"]
Label = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9 _.=+-]{0,79}$")]
StudyName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.-]{0,63}$")]


def _fixed(value: Any) -> str:
    if isinstance(value, dict):
        return "<inputs>"
    return "<points>" if isinstance(value, list | tuple) else "<value>"


Statistics = dict[Name, dict[Name, str]]


def _engine(kind: str) -> str:
    if said := engine_problem(kind):
        raise ValueError(said)
    return kind


FixedKnob = Annotated[
    Annotated[Value, Tag("<value>")]
    | Annotated[Points, Tag("<points>")]
    | Annotated[dict[Name, Value | Points], Tag("<inputs>")],
    Discriminator(_fixed),
]
"""A decided knob: a value, control points over the depth, or one of them per expert."""


class VocabularySpec(Spec):
    """Whose tokens the merged model has."""

    source: str = Field(
        description="`base` for the tokens of the base (without one, of the frame), "
        "`union` for the tokens of all sources, or a source's name for its own. "
        "`vocabulary: union` is short for `vocabulary: {source: union}`.",
    )
    missing: Missing = Field(
        default="owner",
        description="What a source gets for a token it lacks: `owner` (the base's row, "
        "or else the mean of the sources that have it), `mean` (the mean of all that "
        "have it) or `zero`.",
    )
    pad_to_multiple_of: Positive | None = Field(
        default=None,
        description="Rows are rounded up to a multiple of this, counted from the last "
        "token; as many rows as the source of the tokens has if not given.",
    )


def _mapped(value: Any) -> Any:
    return {"source": value} if isinstance(value, str) else value


Vocabulary = Annotated[VocabularySpec, BeforeValidator(_mapped)]


class StartSpec(Spec):
    """A merge tried first, on top of the baselines; or what another study found."""

    name: Label = Field(default="", description="Its label in every table.")
    knobs: dict[str, Value] = Field(
        default_factory=dict,
        description="Axis, or the beginning of an axis name up to a dot, to value: "
        "`weight: 0.8` sets every weight, `weight.math: 0.9` those of one expert. "
        "The longest name wins; axes not named begin where the search begins.",
    )
    recipe: Path | None = Field(
        default=None,
        description="Instead: a recipe file, which need not be a point of the space.",
    )
    study: StudyName | None = Field(
        default=None,
        description="Instead: a study in the same database over the same sources. Its "
        "best candidates are tried first, and the search begins at the best of them "
        "that is a point of this space.",
    )
    top: Few | None = Field(
        default=None, description="With `study`: how many of its candidates; else one."
    )
    trial: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="With `study`: this trial of it, and no other. So a study is "
        "recorded, whatever the other one finds later.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.study is not None:
            has_both = not self.name and self.top and self.trial is not None
            if self.recipe is not None or has_both:
                raise ValueError(
                    "expected of another study either top or trial, and no recipe"
                )
            return self
        if not self.name:
            raise ValueError("expected a name, or a study to begin with; got neither")
        if self.top is not None or self.trial is not None:
            raise ValueError("expected a study whose trials are meant, got none")
        if self.recipe is not None and self.knobs:
            raise ValueError("expected knobs or recipe, got both; keep one")
        return self


def _listed(value: Any) -> Any:
    return [value] if isinstance(value, dict) else value


Starts = Annotated[tuple[StartSpec, ...], BeforeValidator(_listed)]


class BaselineSpec(Spec):
    """A usual merge that the search is compared with, or a grid of them."""

    name: Label = Field(
        description="Its label; values of the grid are added, as `ta lambda=0.8`."
    )
    operator: str = Field(description="How the parents are merged.")
    experts: tuple[Name, ...] | None = Field(
        default=None, description="The parents merged; those of the space if not given."
    )
    base: Name | None = Field(
        default=None,
        description="The base, if the operator needs one; else the space's.",
    )
    knobs: dict[str, FixedKnob] = Field(
        default_factory=dict, description="Knob to value, for all or per expert."
    )
    grid: dict[str, Annotated[tuple[Value, ...], Field(min_length=1)]] = Field(
        default_factory=dict,
        description="Knob to a list of values; every combination is one baseline.",
    )


class BaselinesSpec(Spec):
    """What every search is compared with; scored first and free of charge."""

    parents: bool = Field(default=True, description="Every source as it stands.")
    uniform: bool = Field(default=True, description="The plain average of the experts.")
    others: tuple[BaselineSpec, ...] = Field(
        default=(), description="Further usual merges, each alone or over a grid."
    )


class StrategySpec(Spec):
    """Who proposes candidates."""

    kind: PartName = Field(
        default="cma",
        description="`cma` for numbers and one objective, `catcma` for anything mixed, "
        "`comocatcma` for two objectives, `tpe` for small budgets, "
        "`nsga2` for several objectives and for stacks, `nsga3` for three objectives "
        "and more; `grid` for every point of a small space; `climb` (a hill climber) "
        "and `random` to compare with.",
    )
    generation_size: Positive | None = Field(
        default=None,
        le=100_000,
        description="Candidates asked at a time; the strategy's own if not given.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further settings of the kind."
    )


def _workers(value: Any) -> str:
    return "<word>" if isinstance(value, str) else "<number>"


Gpus = Annotated[
    Annotated[Literal["auto"], Tag("<word>")]
    | Annotated[float, Field(ge=0.0, le=64), Tag("<number>")],
    Discriminator(_workers),
]


class EngineSpec(Spec):
    """What runs the candidates."""

    kind: Annotated[PartName, AfterValidator(_engine)] = Field(
        default="vllm",
        description="`vllm`, `hf` (plain transformers), or `simulated` (no model).",
    )
    dtype: EngineDtype | None = Field(
        default=None,
        description="Element type it computes in; the study's if not given, and where "
        "that is `stored` the one that most of the frame is stored in.",
    )
    max_model_len: Positive | None = Field(
        default=None,
        description="Tokens of the longest sequence; the model's own if not given.",
    )
    max_num_seqs: Positive = Field(default=256, description="Sequences run at once.")
    kv_cache_mib: Positive | None = Field(
        default=None, description="Memory for the key-value cache, in MiB."
    )
    profile: Literal["auto", "weights", "slots", "pool"] = Field(
        default="auto",
        description="`weights` runs the frame's layers in their order; `slots` runs "
        "any stack of layers, and `pool` too, keeping every layer that is ever asked "
        "for. `auto` is what the space needs.",
    )
    slots: Positive | None = Field(
        default=None,
        description="Most layers of a stack that the engine has room for; as many as "
        "the space needs if not given.",
    )
    gpus: Gpus = Field(
        default="auto",
        description="GPUs that each engine reserves, of one machine: a share such as "
        "0.5, several, 0 for none; `auto` is one where there are any.",
    )
    cpus: float = Field(
        default=1.0, gt=0.0, le=1024, description="Cores that each engine reserves."
    )
    options: dict[str, Any] = Field(
        default_factory=dict, description="Further arguments of the engine."
    )

    @model_validator(mode="after")
    def _gpus_it_can_use(self) -> Self:
        if self.gpus == "auto" or self.gpus < 1:
            return self
        if self.gpus != round(self.gpus):
            raise ValueError(
                f"gpus: expected a share below 1 or a whole number, got {self.gpus:g}"
            )
        if self.gpus > 1 and self.kind != "vllm":
            raise ValueError(
                f"gpus: expected at most 1 with {self.kind}, got {self.gpus:g}: only "
                "vllm spreads a model over several"
            )
        return self


Workers = Annotated[
    Annotated[Literal["auto"], Tag("<word>")] | Annotated[Positive, Tag("<number>")],
    Discriminator(_workers),
]


class TakeSpec(Spec):
    """What a stage takes from an earlier one."""

    stage: Name = Field(description="The earlier stage.")
    best: str | None = Field(
        default=None,
        description="The objective by which the best candidate is taken; the first of "
        "that stage if not given.",
    )
    front: Few | None = Field(
        default=None,
        description="Instead of the best: so many candidates, from its front first. "
        "`merged: {stage: ps, front: 2}` gives `merged1` and `merged2`.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.best is not None and self.front is not None:
            raise ValueError("expected best or front, got both; keep one")
        return self


def _of_stage(value: Any) -> Any:
    return {"stage": value} if isinstance(value, str) else value


_OWN = "The stage's own; what the file says for all stages if not given."


class StageSpec(Spec):
    """One of several searches that build on each other."""

    name: Name = Field(
        description="Its name; in the database it is the study `NAME.STAGE`."
    )
    take: dict[Name, Annotated[TakeSpec, BeforeValidator(_of_stage)]] = Field(
        default_factory=dict,
        description="Name to a stage before this one, whose best candidate is a source "
        "of that name here; or to a mapping that says which candidates.",
    )
    seed: int | None = Field(default=None, ge=0, lt=2**32, description=_OWN)
    frame: Name | None = Field(default=None, description=_OWN)
    space: SpaceSpec | None = Field(default=None, description=_OWN)
    items: StudyItemsSpec | None = Field(default=None, description=_OWN)
    objectives: tuple[ObjectiveSpec, ...] | None = Field(default=None, description=_OWN)
    constraints: tuple[ConstraintSpec, ...] | None = Field(
        default=None, description=_OWN
    )
    start: Starts | None = Field(default=None, description=_OWN)
    baselines: BaselinesSpec | None = Field(default=None, description=_OWN)
    strategy: StrategySpec | None = Field(default=None, description=_OWN)
    engine: EngineSpec | None = Field(default=None, description=_OWN)
    timeout_s: float | None = Field(default=None, gt=0.0, description=_OWN)
    budget: BudgetSpec | None = Field(default=None, description=_OWN)


class StudySpec(Spec):
    """Everything about a search."""

    version: Literal[1] = Field(default=1, description="Version of this file's form.")
    name: StudyName = Field(
        default="study",
        description="The study's name in the database; the file's name if not given.",
    )
    seed: int = Field(
        default=0, ge=0, lt=2**32, description="Every random number follows from it."
    )
    sources: dict[Name, str] = Field(
        min_length=1,
        description="Name to model folder or hub id, perhaps with `+` and an adapter; "
        "`~` works, and relative paths start at the study file.",
    )
    statistics: Statistics = Field(
        default_factory=dict,
        description="Kind of statistics (`fisher`) to name of a source to the "
        "safetensors file that holds them, by the names of the source's tensors.",
    )
    frame: Name | None = Field(
        default=None,
        description="The source that gives config and tokenizer; the base, or else "
        "the first expert, if not given.",
    )
    dtype: Dtype | None = Field(
        default=None,
        description="Element type of merged weights, or `stored`: each tensor keeps "
        "its own. If not given the frame's, and `stored` where a source holds several.",
    )
    vocabulary: Vocabulary | None = Field(
        default=None,
        description="Whose tokens the merged model has, where tokenizers differ; not "
        "needed for sources of one tokenizer.",
    )
    allow: Allowed = None
    space: SpaceSpec = Field(description="What is merged, and which choices are open.")
    evaluators: tuple[Include, ...] = Field(
        default=(),
        description="Evaluator files whose tasks are taken over: a path, or a mapping "
        "with `file` and `only`. Keys the study writes under the same task win.",
    )
    tasks: dict[Name, TaskSpec] = Field(
        default_factory=dict, description="Name to task; what candidates are tested on."
    )
    items: StudyItemsSpec = Field(
        default_factory=StudyItemsSpec,
        description="What holds for every task that does not say otherwise.",
    )
    objectives: tuple[ObjectiveSpec, ...] = Field(
        default=(),
        description="What to improve; the mean of all tasks' own metrics if not given.",
    )
    constraints: tuple[ConstraintSpec, ...] = Field(
        default=(), description="Bounds that every result must keep."
    )
    start: Starts = Field(
        default=(),
        description="Merges of your own to try first, or what another study found.",
    )
    baselines: BaselinesSpec = Field(
        default_factory=BaselinesSpec, description="What the search is compared with."
    )
    strategy: StrategySpec = Field(
        default_factory=StrategySpec, description="Who proposes candidates."
    )
    engine: EngineSpec = Field(
        default_factory=EngineSpec, description="What runs the candidates."
    )
    workers: Workers = Field(
        default="auto",
        description="Most engines at once; `auto` is one per GPU, also of machines "
        "that come later.",
    )
    start_patience_s: float = Field(
        default=600.0,
        gt=0.0,
        description="How long to wait for a machine when there is none left to run "
        "on, in seconds.",
    )
    timeout_s: float = Field(
        default=1800.0, gt=0.0, description="Longest a candidate may take, in seconds."
    )
    budget: BudgetSpec = Field(description="When to stop.")
    stages: tuple[StageSpec, ...] = Field(
        default=(),
        description="Several searches, one after another, each on what the earlier "
        "ones found.",
    )
