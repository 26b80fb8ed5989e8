"""A small simulated study, from plan to pool, for tests of the search loop."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.flow.stacks import passthrough
from evomerge.core.recipes.recipe import VERSION, Checkpoint, Operation, Recipe, Slot
from evomerge.core.space import Blueprint, FloatAxis, SearchSpace
from evomerge.core.study import (
    Budget,
    Direction,
    Measure,
    Objective,
    Sampling,
    StrategySettings,
)
from evomerge.core.trial import Point
from evomerge.core.work import EngineSettings, TaskSettings, WorkerSetup
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.plan import Plan
from evomerge.specs.resolved import Baseline
from evomerge.store.base import Store

SPACE = SearchSpace((FloatAxis("a", 0.0, 1.0), FloatAxis("b", 0.0, 1.0)))


@dataclass(frozen=True)
class TwoWeights:
    """Two parents with a weight each."""

    version: int = VERSION

    def recipe(self, point: Point) -> Recipe:
        """Return the blend of the two."""
        keep = Operation(
            "linear",
            ("a", "b"),
            shared=(("normalize", False),),
            each=(("weight", (point["a"], point["b"])),),
        )
        roles = (("*", keep),)
        layers = (("a", 0), ("b", 0))
        return Recipe(
            frame="a",
            dtype="float32",
            inputs=(("a", Checkpoint("fa")), ("b", Checkpoint("fb"))),
            embed=Slot(roles),
            slots=(Slot(roles, layers=layers),),
            head=Slot(roles),
            version=self.version,
        )


def accuracy(task: str) -> Objective:
    """Return the objective that maximises a task's accuracy."""
    return Objective(task, Direction.MAXIMIZE, (Measure(task, "acc"),), (1.0,))


@dataclass(frozen=True)
class SmallStudy:
    """What a test varies of the small study; everything else is fixed.

    Attributes:
        options: Options of both simulated tasks.
        objectives: One or two of the tasks ``x`` and ``y``.
        version: Of its recipes.
        blocks: Of each task.
        sampling: How generations answer fewer items; None for all.
    """

    strategy: StrategySettings = field(
        default_factory=lambda: StrategySettings("random", 4)
    )
    budget: Budget = field(default_factory=lambda: Budget(trials=12))
    options: Mapping[str, Any] = field(default_factory=dict)
    objectives: tuple[str, ...] = ("x",)
    seed: int = 3
    timeout_s: float = 60.0
    version: int = VERSION
    blocks: int = 2
    sampling: Sampling | None = None

    @property
    def blueprint(self) -> Blueprint:
        """From points to recipes."""
        return TwoWeights(self.version)

    @property
    def config(self) -> dict[str, Any]:
        """What the store keeps of it, as far as readers of the store look."""
        goals = [{"name": task, "measure": f"{task}/acc"} for task in self.objectives]
        study = {
            "name": "small",
            "space": {"operator": "linear", "knobs": {"weight": "search"}},
            "tasks": {t: {"task": "simulated", "metric": "acc"} for t in ("x", "y")},
            "objectives": goals,
            "strategy": {"kind": "random", "generation_size": 4},
            "engine": {"kind": "simulated"},
        }
        labels = [start.label for start in self.plan().starts]
        return {
            "study": study,
            "sources": {"a": "fa", "b": "fb"},
            "baselines": labels,
        }

    def plan(self) -> Plan:
        """Return what the coordinator is to do."""
        return Plan(
            name="small",
            seed=self.seed,
            space=SPACE,
            blueprint=self.blueprint,
            objectives=tuple(accuracy(task) for task in self.objectives),
            constraints=(),
            strategy=self.strategy,
            starts=tuple(
                Baseline(
                    f"parent {name}",
                    passthrough(name, f"f{name}", 1, "float32", version=self.version),
                )
                for name in ("a", "b")
            ),
            budget=self.budget,
            timeout_s=self.timeout_s,
            sampling=self.sampling,
        )

    def setup(self, cache_dir: Path) -> WorkerSetup:
        """Return what its workers are made of."""
        options = {"items": 20, **self.options}
        task = TaskSettings("x", "simulated", n_blocks=self.blocks, options=options)
        return WorkerSetup(
            engine=EngineSettings("simulated"),
            tasks=(task, replace(task, name="y")),
            sources={},
            frame="fa",
            probe=None,
            cache_dir=str(cache_dir),
        )

    def pool(self, cache_dir: Path) -> InProcessPool:
        """Return a pool of one worker in this process."""
        setup = self.setup(cache_dir)
        return InProcessPool(lambda: Evaluator(setup))


def decided(store: Store, name: str = "small") -> list[tuple[Any, ...]]:
    """Return what of a study's trials must not depend on what happened on the way."""
    trials = store.trials(store.study(name).id)
    return [(t.number, t.candidate, t.state, t.scores) for t in trials]
