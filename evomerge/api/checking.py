"""Prove a study file sound, and say what the search will cost."""

from __future__ import annotations

import resource
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from evomerge.api.crowding import crowding
from evomerge.api.preparing import refuse_other_stages
from evomerge.api.resolving import (
    as_recorded,
    refuse_non_finite,
    refuse_other_configuration,
    resolve_file,
    setup_of,
)
from evomerge.api.showable import power_of
from evomerge.api.staged import refuse_other_kind
from evomerge.api.warm import finder_in, said_of_starts
from evomerge.core.flow.size import SpaceSize
from evomerge.core.flow.stacks import passthrough
from evomerge.core.measures import Evidence
from evomerge.core.scoring_protocol import ItemRole, TaskDescription
from evomerge.core.study import Objective
from evomerge.core.trial import Repeats
from evomerge.errors import SpecError, StoreError
from evomerge.logs import say
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.required_items import missing_measures
from evomerge.specs.resolved import ResolvedStudy, meter_of
from evomerge.specs.sources import folders_of
from evomerge.steps import step
from evomerge.store.sql import open_store

OUTCOME_BYTES = 35
"""Disk an outcome takes, all tables included: the demo's database has 5.3 MB for
156 thousand."""


@dataclass(frozen=True, slots=True)
class CheckReport:
    """What was found, and what the search will cost.

    Attributes:
        size: Of the space.
        repeats: Of random candidates, how many repeat another.
        objectives: Objective to which way it is better, and what it is made of.
        items: Task to number of search and of report items.
        trial_s: Estimated seconds a trial takes one worker; None without a dry run.
        total_s: Estimated seconds for the whole budget on ``workers`` workers.
        disk_bytes: Estimated growth of the database, and one exported model.
        memory_bytes: Memory one worker took in the dry run.
        costs: Cost that the study speaks of (``cost/layers``) to what each baseline
            has of it; a measured one has none yet.
        shown: Objective to the smallest difference that the held-out items can show, in
            words.
        differences: What the experts' differences from the base promise, in a sentence,
            by a sample of their entries; None without a dry run, or where they have no
            base.
        later: Of a study with stages those after the first, with stand-ins for what
            they take.
    """

    name: str
    sources: tuple[str, ...]
    size: SpaceSize
    repeats: Repeats
    baselines: int
    strategy: str
    objectives: Mapping[str, str]
    items: Mapping[str, tuple[int, int]]
    trials: int | None
    trial_s: float | None
    workers: str
    total_s: float | None
    disk_bytes: int
    memory_bytes: int | None
    costs: Mapping[str, Mapping[str, float]]
    shown: Mapping[str, str]
    differences: str | None = None
    later: tuple[CheckReport, ...] = ()

    def rows(self) -> list[tuple[str, str]]:
        """Return the report as lines of a table."""
        rows = [
            ("study", self.name),
            ("sources", ", ".join(self.sources)),
            ("space", str(self.size)),
            ("repeats among random candidates", str(self.repeats)),
            ("baselines and starts", str(self.baselines)),
            ("strategy", self.strategy),
        ]
        rows += [(f"objective {name}", text) for name, text in self.objectives.items()]
        rows += [
            (f"items of {task}", f"{search} searched on, {report} held out")
            for task, (search, report) in self.items.items()
        ]
        rows += [(f"{name} can show", text) for name, text in self.shown.items()]
        rows += [
            (name, ", ".join(f"{label} {value:.6g}" for label, value in found.items()))
            for name, found in self.costs.items()
        ]
        if self.differences is not None:
            rows.append(("experts", self.differences))
        rows.append(("trials", "no limit" if self.trials is None else str(self.trials)))
        if self.trial_s is not None:
            rows.append(("time per trial", f"{self.trial_s:.2f} s"))
        if self.total_s is not None:
            rows.append(
                ("time in all", f"{self.total_s / 60:.1f} min on {self.workers}")
            )
        rows.append(("disk", f"{self.disk_bytes / 1e6:.1f} MB"))
        if self.memory_bytes is not None:
            rows.append(("memory per worker", f"{self.memory_bytes / 2**30:.1f} GiB"))
        return rows


def check(
    study_file: Path, *, db: str, cache_dir: Path, dry_run: bool = True
) -> CheckReport:
    """Validate a study file, its sources, tasks and metrics, and estimate the cost.

    The dry run starts the study's engine in this process, with its self-test, and
    scores one item of each task; for a study with stages, every engine they need.

    Raises:
        SpecError: Every mistake in file, sources, tasks and metrics.
        StudyExistsError: The name is taken by another configuration.
        WorkerError: The engine does not start, or fails its self-test.
    """
    studies = resolve_file(study_file, cache_dir, finder_in(db))
    say(said for study in studies for said in said_of_starts(study, db))
    refuse_non_finite(studies[0], cache_dir)
    studies = _as_named(studies, db, study_file, cache_dir)
    crowded = (crowding(study.workers, study.engine) for study in studies)
    say(said for said in crowded if said is not None)
    known: list[tuple[ResolvedStudy, _Measured]] = []
    reports = []
    for study in studies:
        measured = next((m for other, m in known if _is_alike(study, other)), None)
        if dry_run and measured is None:
            measured = _dry_run(study, cache_dir)
            known.append((study, measured))
        elif measured is not None:
            _check_metrics(study, measured.tasks)
        reports.append(_report(study, measured))
    return replace(reports[0], later=tuple(reports[1:]))


def _is_alike(study: ResolvedStudy, other: ResolvedStudy) -> bool:
    """Tell whether one dry run speaks for two stages."""
    return (study.engine, study.tasks, study.frame) == (
        other.engine,
        other.tasks,
        other.frame,
    )


def _as_named(
    studies: tuple[ResolvedStudy, ...], db: str, study_file: Path, cache_dir: Path
) -> tuple[ResolvedStudy, ...]:
    """Return the studies as the database knows them; refuse what has their name."""
    try:
        store = open_store(db, create=False)
    except StoreError:
        return studies  # no database yet: `run` makes it
    try:
        studies = as_recorded(studies, store, study_file, cache_dir, finder_in(db))
        refuse_other_kind(store, studies[0])
        refuse_other_configuration(store, studies[0])
        refuse_other_stages(store, studies[0], cache_dir)
        return studies
    finally:
        store.close()


@dataclass(frozen=True, slots=True)
class _Measured:
    tasks: tuple[TaskDescription, ...]
    swap_s: float
    item_s: Mapping[str, float]
    memory_bytes: int


def _dry_run(study: ResolvedStudy, cache_dir: Path) -> _Measured:
    evaluator = Evaluator(setup_of(study, cache_dir))
    try:
        with step("timing a swap and some items"):
            return _timed(study, evaluator)
    finally:
        evaluator.close()


def _timed(study: ResolvedStudy, evaluator: Evaluator) -> _Measured:
    tasks = evaluator.ready("check").tasks
    _check_metrics(study, tasks)
    frame = study.sources[study.frame]
    recipe = passthrough(
        study.frame, study.inputs[study.frame], frame.n_layers, study.dtype
    )
    began = time.perf_counter()
    evaluator.score(recipe, ())
    swap_s = time.perf_counter() - began
    item_s = {}
    for task in tasks:
        name = task.manifest.task
        evaluator.score_items(recipe, name, 1)  # the first pays for compiling
        item_s[name] = _item_s(partial(evaluator.score_items, recipe, name))
    memory = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return _Measured(tasks, swap_s, item_s, memory)


_SAMPLE = 64
"""Items timed for the estimate, once one alone has proved quick."""
_QUICK_S = 1.0
_COMPARED = 1 << 16
"""Entries of each tensor that the experts are compared by."""
_DRAWS = 100
"""Random candidates looked at for repeats: milliseconds each."""


def _item_s(score: Callable[[int], int]) -> float:
    """Return the seconds an item takes; in a batch, if one alone is quick.

    One item alone looks many times slower than it is among others.
    """
    began = time.perf_counter()
    n = score(1)
    seconds = time.perf_counter() - began
    if seconds < _QUICK_S:
        began = time.perf_counter()
        n = score(_SAMPLE)
        seconds = time.perf_counter() - began
    return seconds / n


def _check_metrics(study: ResolvedStudy, tasks: tuple[TaskDescription, ...]) -> None:
    missing, offered = missing_measures(study.objectives, study.constraints, tasks)
    if missing:
        raise SpecError(
            study.problem("objectives", f"{name} is not measured; offered: {offered}.")
            for name in missing
        )


def _report(study: ResolvedStudy, measured: _Measured | None) -> CheckReport:
    items = study.items
    trial_s = total_s = memory = None
    if measured is not None:
        memory = measured.memory_bytes
        trial_s = measured.swap_s + sum(
            len(task.manifest.ids_of(ItemRole.SEARCH))
            * measured.item_s[task.manifest.task]
            for task in measured.tasks
        )
        total_s = _total_s(study, trial_s, items)
    n_trials = study.budget.trials
    n_search = sum(search for search, _ in items.values())
    n_kept = (n_trials or 0) + len(study.baselines)
    frame = study.sources[study.frame]
    weights = sum(info.nbytes for info in frame.tensors.values())
    workers = study.workers
    return CheckReport(
        name=study.name,
        sources=tuple(study.sources),
        size=SpaceSize.of(study.space, study.blueprint),
        repeats=_repeats(study),
        baselines=len(study.baselines),
        strategy=study.strategy.kind,
        objectives={o.name: _described(o) for o in study.objectives},
        items=items,
        trials=n_trials,
        trial_s=trial_s,
        workers="1 worker" if not workers else f"{workers} workers",
        total_s=total_s,
        disk_bytes=n_kept * n_search * OUTCOME_BYTES + weights,
        memory_bytes=memory,
        costs=_costs(study),
        shown=power_of(study),
        differences=None if measured is None else _differences(study),
    )


def _differences(study: ResolvedStudy) -> str | None:
    """Say what the experts' differences promise, if they have a base."""
    from evomerge.merging.differences import differences, verdict  # loads torch
    from evomerge.merging.sources import Sources

    space = study.config["study"]["space"]
    base = study.sources.get(space.get("base") or "")
    names = space.get("experts", ())
    experts = {name: m for name in names if (m := study.sources.get(name)) is not None}
    if base is None or len(experts) < len(names):
        return None  # what a later stage takes is not there yet
    if any(model.adapter is not None for model in (base, *experts.values())):
        return None
    with Sources(folders_of(study.sources.values())) as sources:
        return verdict(differences(base, experts, sources, most=_COMPARED))


def _described(objective: Objective) -> str:
    made_of = ", ".join(map(str, objective.measures))
    return f"{objective.direction.words}; {made_of}"


def _costs(study: ResolvedStudy) -> dict[str, dict[str, float]]:
    out: dict[str, dict[str, float]] = {}
    meter = meter_of(study)
    if meter is None:
        return out
    for baseline in study.baselines:
        for name, value in meter.values(
            Evidence(baseline.recipe, meter.lookup)
        ).items():
            out.setdefault(name, {})[baseline.label] = value
    return out


def _repeats(study: ResolvedStudy) -> Repeats:
    """Draw candidates at random, and count those whose recipe was met before."""
    rng = np.random.default_rng(study.seed)
    points = (study.space.random(rng) for _ in range(_DRAWS))
    return Repeats.of(study.blueprint.recipe(point).digest for point in points)


def _total_s(
    study: ResolvedStudy, trial_s: float, items: Mapping[str, tuple[int, int]]
) -> float | None:
    n_search = sum(search for search, _ in items.values())
    budget = study.budget
    # In trials that answer all items.
    share, finals = (
        (1.0, 0) if (s := study.sampling) is None else (s.share, s.finalists)
    )
    counts = [
        budget.trials * share + finals if budget.trials else None,
        budget.items / n_search if budget.items and n_search else None,
    ]
    known = [count for count in counts if count is not None]
    ends = [budget.seconds] if budget.seconds else []
    if known:
        n = min(known) + len(study.baselines)
        ends.append(n * trial_s / (study.workers or 1))
    return min(ends) if ends else None
