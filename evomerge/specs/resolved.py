"""A study with every question answered: what the search is started from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from evomerge.checkpoints import Model
from evomerge.checkpoints.costs import lookup_among
from evomerge.core.meter import Meter, wanted_measures
from evomerge.core.recipes.recipe import Input, Recipe
from evomerge.core.space import Blueprint, SearchSpace
from evomerge.core.study import (
    Budget,
    Constraint,
    Objective,
    Sampling,
    StrategySettings,
)
from evomerge.core.trial import Point
from evomerge.core.work import EngineSettings, TaskSettings
from evomerge.errors import Problem, SpecError
from evomerge.specs.reading.lines import Lines


@dataclass(frozen=True, slots=True)
class Baseline:
    """A merge scored before the search: a usual one, or a start of the user's own.

    Attributes:
        label: Its name in tables and constraints; unique in the study.
        point: Its coordinates, if it is a point of the space.
    """

    label: str
    recipe: Recipe
    point: Point | None = None


@dataclass(frozen=True)
class ResolvedStudy:
    """A study, decided and checked against its sources.

    Attributes:
        tasks: In order of their names.
        sources: Name to checked model folder, in order of the names.
        inputs: Name to what recipes call the source.
        frame: Name of the source that engines start from.
        probe: Name of the source that the self-test swaps in; None with one source.
        dtype: Element type of merged weights.
        baselines: Generation 0: parents, the uniform blend, further ones, starts.
        workers: Most engines at once; None means as many as the cluster carries.
        timeout_s: Longest one attempt may take, in seconds.
        sampling: How generations answer fewer items; None lets each answer all.
        n_blocks: Most blocks a trial is scored in, over all tasks.
        config: What may not change when the study is resumed; plain JSON data.
        allowance: What may: budget, workers, paths, placement; plain JSON data.
        warnings: What the user must see although nothing is refused.
        items: Task to its number of search and of report items; empty where tasks were
            not looked at.
        image_tasks: Tasks whose prompts hold images, likewise.
        start_patience_s: How long to wait for a machine where none is left to run on.
        lines: Where the keys of its file stand, if it was read from one.
    """

    name: str
    seed: int
    space: SearchSpace
    blueprint: Blueprint
    objectives: tuple[Objective, ...]
    constraints: tuple[Constraint, ...]
    tasks: tuple[TaskSettings, ...]
    engine: EngineSettings
    sources: Mapping[str, Model]
    inputs: Mapping[str, Input]
    frame: str
    probe: str | None
    dtype: str
    baselines: tuple[Baseline, ...]
    strategy: StrategySettings
    workers: int | None
    timeout_s: float
    budget: Budget
    sampling: Sampling | None
    n_blocks: int
    config: Mapping[str, Any]
    allowance: Mapping[str, Any]
    warnings: tuple[Problem, ...] = ()
    items: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    image_tasks: tuple[str, ...] = ()
    start_patience_s: float = 600.0
    lines: Lines | None = field(default=None, compare=False, repr=False)

    def problem(self, key: str, message: str) -> Problem:
        """Return a mistake at a key of the study, and where that stands in its file."""
        if self.lines is None:
            return Problem(key, message)
        return self.lines.problem(key, message)

    def source_problem(self, name: str, message: str) -> Problem:
        """Return what is wrong with a source; the message names its folder."""
        found = self.problem(f"sources.{name}", message)
        return replace(found, where=f"{found.where} ({self.sources[name].path})")


def meter_of(study: ResolvedStudy) -> Meter | None:
    """Return what tells of whole candidates; None if the study asks nothing of them.

    Raises:
        SpecError: They cannot be told of a source.
    """
    measures = wanted_measures(study.objectives, study.constraints)
    if not measures:
        return None
    meter = Meter(measures, lookup_among(study.sources.values()))
    if problems := list(_problems(study, meter)):
        raise SpecError(problems)
    return meter


def _problems(study: ResolvedStudy, meter: Meter) -> Iterator[Problem]:
    if study.sampling is not None and meter.is_timed:
        yield study.problem(
            "items.share",
            "expected no share beside a speed, which can be compared on the same items "
            f"only; got {study.sampling.share:g}. Leave it out, or the speed.",
        )
    for name, source in study.inputs.items():
        facts = meter.lookup(source)
        for found, (_, metrics) in meter.sources.items():
            if said := found.unfit(metrics, facts):
                yield study.source_problem(name, said)
