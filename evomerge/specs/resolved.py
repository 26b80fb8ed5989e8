"""A study with every question answered: what the search is started from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.checkpoints import Model
from evomerge.core.recipes.recipe import Input, Recipe
from evomerge.core.space import Blueprint, SearchSpace
from evomerge.core.study import Budget, Constraint, Objective, StrategySettings
from evomerge.core.trial import Point
from evomerge.core.work import EngineSettings, TaskSettings
from evomerge.errors import Problem


@dataclass(frozen=True, slots=True)
class Baseline:
    """A merge scored before the search: a rival, or a start of the user's own.

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
        baselines: Generation 0: parents, the uniform blend, further rivals, starts.
        workers: Engines at once; None means one per GPU.
        timeout_s: Longest one attempt may take, in seconds.
        n_blocks: Blocks a trial is scored in, over all tasks.
        config: What may not change when the study is resumed; plain JSON data.
        allowance: What may: budget, workers, paths, placement; plain JSON data.
        warnings: What the user must see although nothing is refused.
        items: Task to its number of search and of report items; empty where tasks were
            not looked at.
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
    n_blocks: int
    config: Mapping[str, Any]
    allowance: Mapping[str, Any]
    warnings: tuple[Problem, ...] = ()
    items: Mapping[str, tuple[int, int]] = field(default_factory=dict)
