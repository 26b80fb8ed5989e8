"""Search a study that is ready."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from evomerge.api.placing import Prepared, Where
from evomerge.api.reading import Best, read_bests
from evomerge.api.resolving import setup_of
from evomerge.core.work import Pool

if TYPE_CHECKING:
    from evomerge.search.scoreboard import Progress
    from evomerge.specs.resolved import ResolvedStudy


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
        WorkerError: No worker could be brought up.
    """
    from evomerge.search.coordinator import Coordinator
    from evomerge.search.plan import Plan
    from evomerge.specs.resolved import meter_of
    from evomerge.store.owner import this_process
    from evomerge.store.sql import open_store

    study = prepared.study
    plan = Plan(
        name=study.name,
        seed=study.seed,
        space=study.space,
        blueprint=study.blueprint,
        objectives=study.objectives,
        constraints=study.constraints,
        strategy=study.strategy,
        starts=study.baselines,
        budget=study.budget,
        timeout_s=study.timeout_s,
        allowance=prepared.allowance,
        meter=meter_of(study),
    )
    store = open_store(prepared.db)
    try:
        pool = make_pool(study, prepared.where)
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
    setup = setup_of(study, where.cache_dir)
    if where.in_process:
        from evomerge.cluster.inprocess import InProcessPool
        from evomerge.scoring.evaluator import Evaluator

        return InProcessPool(lambda: Evaluator(setup))
    from evomerge.cluster.ray_connection import Placement
    from evomerge.cluster.ray_pool import RayPool

    return RayPool(
        setup,
        Placement(
            run_dir=str(where.cache_dir / "ray"),
            n_workers=where.workers or study.workers,
            address=where.address,
        ),
    )
