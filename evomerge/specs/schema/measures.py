"""What is measured and what is wanted of it, as it is written.

``tasks:``, ``evaluators:`` and ``items:`` of a study, its ``objectives:``,
``constraints:`` and ``budget:``.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, Discriminator, Field, Tag, model_validator

from evomerge.specs.reading.spec import Fraction, Name, Positive, Spec

ItemId = str | int
CUT = 2
"""Version of the cut of items into blocks that a study begins with."""
FINALISTS = 10
"""How many candidates answer all items at the end, where nothing else is said."""
BLOCKS_OF_TASK = 10
"""Blocks of a task, at least and where it has the items, if generations answer some."""
CUTS = {1: (8, 1), 2: (32, 10)}
"""Version to the blocks over all tasks, and the fewest items of one."""
"""Blocks a trial is scored in, over all tasks, where nothing else is said."""


class ItemsSpec(Spec):
    """Which items are searched on, and which are held out for the report."""

    search_fraction: Fraction | None = Field(
        default=None,
        description="Share of the items that is searched on, drawn by a hash of their "
        "content; the rest is held out for the report. 0.5 if not given.",
    )
    limit: Positive | None = Field(
        default=None, description="Most items used, search and report together."
    )
    search: tuple[ItemId, ...] | None = Field(
        default=None,
        min_length=1,
        description="Ids or positions of the items searched on.",
    )
    report: tuple[ItemId, ...] | None = Field(
        default=None,
        min_length=1,
        description="Ids or positions of the held-out items.",
    )
    search_split: str | None = Field(
        default=None, description="Split of the dataset that is searched on."
    )
    report_split: str | None = Field(
        default=None,
        description="Split of the dataset that is held out for the report.",
    )
    blocks: Positive | None = Field(
        default=None,
        description="Blocks the search items are scored and recorded in: for one task "
        "where it stands with a task, over all tasks where it stands with the study. "
        f"{CUTS[CUT][0]} if not given, and fewer where one would have less than "
        f"{CUTS[CUT][1]} items. Another worker may take over blocks that nobody has "
        "begun.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        both = set(map(str, self.search or ())) & set(map(str, self.report or ()))
        if both:
            raise ValueError(
                "expected search and report items to differ, got "
                f"{', '.join(sorted(both)[:5])} in both"
            )
        if self.search_fraction is not None and self.search is not None:
            raise ValueError("expected search_fraction or search, got both; keep one")
        if self.search_split and self.search_split == self.report_split:
            raise ValueError(
                "expected search_split and report_split to differ, got "
                f"{self.search_split!r} for both; give a search_fraction instead"
            )
        return self


ShareOfAll = Annotated[float, Field(gt=0.0, le=1.0)]


def _if_less(share: float) -> float | None:
    """Take a share of all for what it is: nothing that a study has to say."""
    return share if share < 1.0 else None


class StudyItemsSpec(ItemsSpec):
    """The same for a whole study, and how many of the items a generation answers."""

    share: Annotated[ShareOfAll, AfterValidator(_if_less)] | None = Field(
        default=None,
        description="Share of the blocks of every task that the candidates of a "
        "generation answer: the same for all of them, others in each generation. "
        "About 10 items of each task are few enough. Below 0.25 a generation is twice "
        "as large, if strategy.generation_size is not given. 1 if not given: all "
        "items.",
    )
    finalists: Positive | None = Field(
        default=None,
        description="With a share below 1: how many of the most promising candidates "
        "are scored on all items at the end. These alone, baselines and starts can be "
        f"the best, on the front, taken by a stage or exported. {FINALISTS} if not "
        "given.",
    )

    @model_validator(mode="after")
    def _finalists_of_a_share(self) -> Self:
        if self.finalists is not None and self.share is None:
            raise ValueError(
                "expected a share below 1 beside finalists, got none; without one "
                "every candidate answers all items"
            )
        return self


class TaskSpec(Spec):
    """One task, and how it is scored."""

    task: str | None = Field(
        default=None,
        min_length=1,
        description="Its name in lm-eval, where a group means its members, or "
        "`simulated`, or a measure of items (`kl`, `preference`, another package's); "
        "the task's own key if not given.",
    )
    include: Path | None = Field(
        default=None,
        description="Folder of local task files, relative to the file this stands in.",
    )
    metric: str | None = Field(
        default=None,
        min_length=1,
        description="The metric meant where an objective names only the task.",
    )
    num_fewshot: Annotated[int, Field(ge=0)] | None = Field(
        default=None,
        description="Examples before each question; the task's own if not given.",
    )
    apply_chat_template: bool = Field(
        default=False, description="Wrap prompts in the tokenizer's chat template."
    )
    system_instruction: str | None = Field(default=None, description="System message.")
    gen_kwargs: dict[str, Any] = Field(
        default_factory=dict,
        description="Generation settings laid over the task's own.",
    )
    max_gen_toks: Positive | None = Field(
        default=None, description="Most tokens generated per answer."
    )
    limit: Positive | None = Field(
        default=None,
        description="Short for `items.limit`: most items used, of both roles.",
    )
    items: ItemsSpec = Field(
        default_factory=ItemsSpec,
        description="Which items are searched on and which are held out.",
    )
    trust_code: bool = Field(
        default=False,
        description="Allow this task to run code of its own or of the model. Off "
        "unless said here.",
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="Settings of a `simulated` task, or of a measure of items.",
    )

    @model_validator(mode="after")
    def _one_limit(self) -> Self:
        if self.limit is not None and self.items.limit is not None:
            raise ValueError("expected limit or items.limit, got both; keep one")
        return self


class EvaluatorsSpec(Spec):
    """An evaluator file: tasks that studies include by name of the file."""

    version: Literal[1] = Field(default=1, description="Version of this file's form.")
    tasks: dict[Name, TaskSpec] = Field(
        min_length=1, description="Name to task, as in a study."
    )


class IncludeSpec(Spec):
    """Tasks taken from an evaluator file."""

    file: Path = Field(description="The evaluator file, relative to the study.")
    only: tuple[Name, ...] | None = Field(
        default=None, min_length=1, description="The tasks taken; all if not given."
    )


def _include(value: Any) -> str:
    return "<file>" if isinstance(value, str | Path) else "<include>"


Include = Annotated[
    Annotated[Path, Tag("<file>")] | Annotated[IncludeSpec, Tag("<include>")],
    Discriminator(_include),
]


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
        "what a model costs; or another package's measure.",
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
        if times and not math.isfinite(self.total_seconds or 0.0):
            raise ValueError(f"{times[0]} are more seconds than a number holds")
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
