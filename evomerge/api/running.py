"""A study that is ready to be searched, where it runs, and the search."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from evomerge.api.crowding import crowding
from evomerge.api.resolving import setup_of
from evomerge.api.results.reading import Best, read_bests
from evomerge.cluster.inprocess import InProcessPool
from evomerge.cluster.ray_connection import Placement
from evomerge.cluster.ray_pool import RayPool
from evomerge.core.policy import Policy, in_force
from evomerge.core.work import Pool
from evomerge.errors import Problem, SpecError
from evomerge.logs import say
from evomerge.masking import masked
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.search.plan import Plan
from evomerge.search.scoreboard import Progress
from evomerge.specs.permitted import amount_refusals, option_refusals
from evomerge.specs.persistence import cut_of
from evomerge.specs.resolved import ResolvedStudy, meter_of
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.strategies.registry import widened

LOCAL = "local"
"""Address of a Ray that is started on this machine."""


@dataclass(frozen=True, slots=True)
class Where:
    """Where a search runs.

    Attributes:
        workers: Engines at once; None takes what the study says.
        address: A running Ray cluster; ``local`` starts Ray on this machine, None too
            unless the study ran elsewhere before.
        in_process: One worker inside this process, without Ray.
        cache_dir: Folder for what can be made again.
    """

    workers: int | None
    address: str | None
    in_process: bool
    cache_dir: Path

    def __post_init__(self) -> None:
        if self.in_process and self.address is not None:
            raise SpecError(
                [Problem("--in-process", "cannot go together with --address")]
            )

    def after(self, earlier: Mapping[str, Any]) -> Where:
        """Fill what is left open with where the study ran before."""
        if self.in_process:
            return self
        address = self.address or earlier.get("address")
        return replace(
            self,
            workers=self.workers or earlier.get("workers"),
            address=None if address == LOCAL else address,
        )

    def remembered(self) -> dict[str, Any]:
        """Return what a resume takes up again, as plain data."""
        address = None if self.address is None else masked(self.address)
        return {"workers": self.workers, "address": address}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study that is in the database and ready to be searched.

    Attributes:
        objectives: Names, in order.
    """

    name: str
    objectives: tuple[str, ...]
    db: str = field(repr=False)
    where: Where
    study: ResolvedStudy
    allowance: Mapping[str, Any]

    @property
    def stage(self) -> str | None:
        """Which stage of a study it is; None where there are none."""
        about = self.study.config.get("stage")
        return None if about is None else str(about["name"])


def ready(
    study: ResolvedStudy, db: str, where: Where, earlier: Mapping[str, Any]
) -> Prepared:
    """Say where a study is to run.

    Args:
        study: The study.
        db: Database URL.
        where: Where to run; what it leaves open is as in the run before.
        earlier: Where it ran before, as plain data.

    Raises:
        SpecError: The policy in force does not permit it.
    """
    placed = where.after(earlier)
    if (policy := in_force()) is not None:
        placed = _permitted(study, placed, policy)
    # A look inside this process is not where the study lives.
    kept = earlier if where.in_process else placed.remembered()
    allowance = {**study.allowance, "placement": dict(kept)}
    return Prepared(study.name, _names(study), db, placed, study, allowance)


def _permitted(study: ResolvedStudy, where: Where, policy: Policy) -> Where:
    """Hold a study, whether from a file or as recorded, against a policy."""
    budget = study.budget
    amounts = {
        "trials": budget.trials,
        "items": budget.items,
        "minutes": None if budget.seconds is None else budget.seconds / 60,
    }
    found = [*option_refusals(policy, study.engine.options, "engine.options")]
    found += amount_refusals(policy, amounts)
    most = policy.max_workers
    asked = where.workers or study.workers
    if most is not None and asked is not None and asked > most:
        found.append(("workers", f"expected at most {most} here, got {asked}."))
    if found:
        raise SpecError(study.problem(key, said) for key, said in found)
    return where if most is None or asked is not None else replace(where, workers=most)


def _names(study: ResolvedStudy) -> tuple[str, ...]:
    return tuple(objective.name for objective in study.objectives)


@dataclass(frozen=True, slots=True)
class RunReport:
    """How a run ended.

    Attributes:
        reason: Which budget was used up.
        trials: Candidates asked so far, over all runs.
        items: Items scored for them.
        seconds: Wall time of all runs.
        best: The best trial of each objective, by search score.
    """

    name: str
    reason: str
    trials: int
    items: int
    seconds: float
    front_size: int
    best: tuple[Best, ...]


def search(
    prepared: Prepared, observer: Callable[[Progress], None] | None = None
) -> RunReport:
    """Search until the budget is used.

    Args:
        prepared: The study.
        observer: Called with the progress, several times a second.

    Raises:
        StudyLockedError: Another coordinator is at it.
        ReplayError: The recorded history does not replay.
        SetupError: No worker can ever be what the study asks for.
        WorkerError: No worker could be brought up.
    """
    study, where = prepared.study, prepared.where
    if where.address is None and not where.in_process:
        said = crowding(where.workers or study.workers, study.engine)
        say([] if said is None else [said])
    plan = Plan(
        name=study.name,
        seed=study.seed,
        space=study.space,
        blueprint=study.blueprint,
        objectives=study.objectives,
        constraints=study.constraints,
        strategy=widened(study.strategy, study.space, study.sampling),
        starts=study.baselines,
        budget=study.budget,
        timeout_s=study.timeout_s,
        allowance=prepared.allowance,
        meter=meter_of(study),
        times_by_block=cut_of(study.config) == 1,
        sampling=study.sampling,
    )
    store = open_store(prepared.db)
    try:
        pool = make_pool(study, where)
        reason = Coordinator(plan, store, pool, this_process(), observer).run()
        stored = store.study(study.name)
        usage = store.usage(stored.id)
        standings = read_bests(store, stored, study.objectives, study.constraints)
    finally:
        store.close()
    return RunReport(
        name=study.name,
        reason=reason,
        trials=usage.trials,
        items=usage.items,
        seconds=usage.seconds,
        front_size=standings.front_size,
        best=standings.best,
    )


def make_pool(study: ResolvedStudy, where: Where) -> Pool:
    """Return the pool that fits the study and the place."""
    setup, policy = setup_of(study, where.cache_dir), in_force()
    if where.in_process:
        return InProcessPool(lambda: Evaluator(setup))

    return RayPool(
        setup,
        Placement(
            run_dir=str(where.cache_dir / "ray"),
            n_workers=where.workers or study.workers,
            most=None if policy is None else policy.max_workers,
            address=where.address,
            gpus=study.engine.gpus,
            cpus=study.engine.cpus,
            start_patience_s=study.start_patience_s,
        ),
    )
