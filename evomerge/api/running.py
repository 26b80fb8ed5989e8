"""Start a search, or go on with one."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.reading import Best, read_bests
from evomerge.api.resolving import (
    refuse_non_finite,
    refuse_other_configuration,
    resolve_file,
    restart,
    setup_of,
)
from evomerge.core.study import Budget
from evomerge.core.work import Pool
from evomerge.errors import Problem, SpecError

if TYPE_CHECKING:
    from evomerge.search.scoreboard import Progress
    from evomerge.specs.resolved import ResolvedStudy


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
        return {"workers": self.workers, "address": self.address}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A study that is in the database and ready to be searched.

    Attributes:
        objectives: Names, in order.
    """

    name: str
    objectives: tuple[str, ...]
    db: str
    where: Where
    study: ResolvedStudy
    allowance: Mapping[str, Any]


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


def prepare(study_file: Path, *, db: str, where: Where) -> Prepared:
    """Read a study file, check it with its sources, and put it into the database.

    A study of this name that is there already with the same configuration is taken
    as it is, with the file's budget and workers.

    Raises:
        SpecError: Every mistake in the file and its sources.
        StudyExistsError: The name is taken by another configuration; the message
            lists the differences.
        StoreError: The database cannot be used.
    """
    from evomerge.specs.metering import meter_of
    from evomerge.specs.stored import diff
    from evomerge.store.sql import open_store

    study = resolve_file(study_file, where.cache_dir)
    meter_of(study)
    made = _prepared(study, db, where, {})
    store = open_store(db)
    try:
        recorded = refuse_other_configuration(store, study)
        if recorded is None:
            refuse_non_finite(study, where.cache_dir)
            store.create_study(study.name, study.config, made.allowance, study.seed)
        elif diff(recorded.config, study.config):
            refuse_non_finite(study, where.cache_dir)
            restart(store, recorded, study)
    finally:
        store.close()
    return made


def take_up(
    name: str, *, db: str, where: Where, budget: Budget | None = None
) -> Prepared:
    """Rebuild a recorded study, to go on with it.

    Args:
        name: The study.
        db: Database URL.
        where: Where to run; what it leaves open is as in the run before.
        budget: Limits that change; those that are None stay as recorded.

    Raises:
        StudyNotFoundError: There is no such study.
        SpecError: A source is gone or has changed.
    """
    from evomerge.specs.restore import restore
    from evomerge.store.sql import open_store

    store = open_store(db, create=False)
    try:
        stored = store.study(name)
    finally:
        store.close()
    allowance = {**stored.allowance}
    if budget is not None:
        given = {k: v for k, v in asdict(budget).items() if v is not None}
        allowance["budget"] = {**allowance["budget"], **given}
    study = restore(stored.config, allowance, cache_dir=where.cache_dir)
    return _prepared(study, db, where, stored.allowance.get("placement", {}))


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
    from evomerge.specs.metering import meter_of
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


def _prepared(
    study: ResolvedStudy, db: str, where: Where, earlier: Mapping[str, Any]
) -> Prepared:
    placed = where.after(earlier)
    # A look inside this process is not where the study lives.
    kept = earlier if where.in_process else placed.remembered()
    allowance = {**study.allowance, "placement": dict(kept)}
    return Prepared(study.name, _names(study), db, placed, study, allowance)


def _names(study: ResolvedStudy) -> tuple[str, ...]:
    return tuple(objective.name for objective in study.objectives)
