"""Write models: a trial with an honest card, or the zoo."""

from __future__ import annotations

import dataclasses
import json
import shlex
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from evomerge.api.means import Progress
from evomerge.api.models.held_out import Case, Judged, judge, judged_on
from evomerge.api.models.provenance import parents, standing, versions
from evomerge.api.results.alike import alike
from evomerge.api.results.reading import read_bests, repeats_of
from evomerge.api.staged import found
from evomerge.checkpoints.costs import lookup_among
from evomerge.core.cost import SPEED_MEASURE, RecipeCosts
from evomerge.core.flow.size import SpaceSize
from evomerge.core.study import Objective
from evomerge.core.trial import Record, Trial, TrialState
from evomerge.errors import ExportError
from evomerge.export.bounds import HeldBound
from evomerge.export.card import CardFacts, Search
from evomerge.export.parents import Standing
from evomerge.export.report import BaselineTable
from evomerge.export.tables import CostRow
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.sources import folders_of
from evomerge.specs.studies.restored import restore
from evomerge.steps import BYTES, PERCENT, step
from evomerge.store.base import Store, StoredStudy
from evomerge.store.sql import open_store

if TYPE_CHECKING:  # it loads torch
    from evomerge.zoo import OnStep, ZooReport

_PROMPT = "27 plus 48?\n"
"""What the shown command asks: the zoo's form, and sensible for any other model."""


@dataclass(frozen=True, slots=True)
class Export:
    """What is to be exported.

    Attributes:
        trial: Its number; None takes the best of the first objective.
        out: Folder to make.
        is_scored: Score it and the baselines on held-out items first.
        replace: Replace an earlier export in ``out``.
        shard_bytes: Largest weight file.
    """

    trial: int | None
    out: Path
    is_scored: bool = True
    replace: bool = False
    shard_bytes: int = 5 * 10**9


@dataclass(frozen=True, slots=True)
class Exported:
    """A finished export.

    Attributes:
        rivals: One table for each objective, on held-out items; empty if not scored.
        selected: Objective to the value it was selected by, on search items.
        costs: What it costs to run, and what generation 0 does.
        bounds: The study's constraints, tested on held-out items; empty if not scored.
        standing: What it was before the search, if it is none of its finds.
        openings: How often the held-out items have been scored, this time included.
        unscored: Label of each baseline that could not be scored, to the reason.
        gaps: Objective to the winner's gap (``BaselineTable.gap``), where it is known.
        alike: Objective to the trials that the search's items do not tell from it.
        command: A line that loads the folder and asks it something.
    """

    study: str
    trial: int
    path: str
    fingerprint: str
    size_bytes: int
    rivals: tuple[BaselineTable, ...]
    selected: Mapping[str, float]
    openings: int
    unscored: Mapping[str, str]
    command: str
    costs: tuple[CostRow, ...]
    bounds: tuple[HeldBound, ...] = ()
    standing: Standing | None = None
    gaps: Mapping[str, float] = field(default_factory=dict)
    alike: Mapping[str, tuple[int, ...]] = field(default_factory=dict)


def export(
    name: str,
    wanted: Export,
    *,
    db: str,
    cache_dir: Path,
    progress: Progress | None = None,
) -> Exported:
    """Score a trial and the baselines on held-out items; write it as a model folder.

    Baselines are generation 0: parents, uniform blend, further ones, starts. Known
    outcomes are reused, so a second export computes little. Of a study with stages, the
    last that is finished is exported, unless one is named.

    Raises:
        StudyNotFoundError: There is no such study.
        ExportError: The trial has no scores, or the folder cannot be written.
        SpecError: A source is gone or has changed.
        RecipeError: The trial cannot be written as an ordinary model, for example
            because its scales do not fold into weights.
        CandidateError: The trial's weights are not finite.
    """
    store = open_store(db, create=False)
    try:
        with step("reading the study"):
            stored = found(store, name, finished=True)
            study = restore(stored.config, stored.allowance, cache_dir=cache_dir)
            trial = _chosen(store, stored, study, wanted.trial)
        with step("loading torch"):
            from evomerge.export.model import refuse_taken
        refuse_taken(wanted.out, replace=wanted.replace)
        _check_writable(trial, study, cache_dir)
        case = Case(store, stored, study, trial)
        judged = Judged((), {}, 0)
        if wanted.is_scored and judged_on(study):
            judged = judge(case, cache_dir)
        return _write(case, judged, wanted, progress)
    finally:
        store.close()


def zoo(
    out: Path, *, recipe: str = "P128", seed: int = 0, progress: OnStep | None = None
) -> ZooReport:
    """Train the small models of the demo and their tasks, if they are not there.

    Args:
        out: The zoo's folder.
        recipe: ``P128``, or the smaller ``L2`` or ``TINY``.
        seed: Of weights and training data.
        progress: Told the model, its finished steps and all its steps.

    Raises:
        SpecError: The folder holds something else, or the recipe is unknown.
        EvomergeError: Training failed.
    """
    with step("loading torch"):
        from evomerge.zoo import counting, make_zoo

    with step("training", unit=PERCENT) as now:
        told = progress or counting(now, recipe)
        return make_zoo(out, recipe=recipe, seed=seed, progress=told)


def _chosen(
    store: Store, stored: StoredStudy, study: ResolvedStudy, number: int | None
) -> Trial:
    if number is None:
        best = read_bests(store, stored, study.objectives, study.constraints).best
        if not best:
            raise ExportError(
                f"Study {study.name!r} has no feasible scored trial yet; see "
                f"`evomerge trials {study.name}`."
            )
        number = best[0].trial
    trial = store.trial(stored.id, number)
    if trial.state is not TrialState.SCORED:
        raise ExportError(
            f"Trial {number} of {study.name!r} is {trial.state}, not scored; choose "
            f"one of `evomerge front {study.name}`."
        )
    found = trial.precision
    if found is not None and found.is_partial:
        raise ExportError(
            f"Trial {number} of {study.name!r} answered {found.n_items} of "
            f"{found.of_items} items, which is too few to choose it by; choose one of "
            f"`evomerge front {study.name}`, such as a final."
        )
    return trial


def _check_writable(trial: Trial, study: ResolvedStudy, cache_dir: Path) -> None:
    """Refuse what cannot be written before held-out items are opened for it."""
    # torch
    from evomerge.merging.materialise import describe
    from evomerge.merging.sources import Sources

    folders = folders_of(study.sources.values())
    with Sources(folders, cache_dir=cache_dir) as sources:
        describe(trial.candidate.recipe, sources)


def _write(
    case: Case, judged: Judged, wanted: Export, progress: Progress | None
) -> Exported:
    # torch
    from evomerge.export.model import export_model
    from evomerge.merging.materialise import merged_tensors
    from evomerge.merging.sources import Sources

    store, stored, study, trial = case.store, case.stored, case.study, case.trial
    scores = trial.scores or {}
    selected = {o.name: o.value(scores) for o in study.objectives}
    costs = _costs(case)
    recipe = trial.candidate.recipe
    every = store.history(stored.id)
    by_item = [o for o in study.objectives if o.by_item]
    alike_ones = {o.name: _alike(case, o, every) for o in by_item}
    facts = CardFacts(
        name=wanted.out.name,
        recipe=recipe,
        parents=parents(recipe, study.sources),
        bounds=judged.bounds,
        standing=standing(case, is_best=wanted.trial is None),
        allow=tuple(stored.config["study"].get("allow", ())),
        tables=judged.tables,
        search=Search(
            study.name,
            trial.number,
            store.usage(stored.id),
            {o.name: selected[o.name] for o in by_item},
            judged.openings,
            study.strategy.kind,
            SpaceSize.of(study.space, study.blueprint),
            repeats_of(every),
            alike_ones,
        ),
        versions=versions(),
        costs=costs,
    )
    with (
        Sources(folders_of(study.sources.values())) as sources,
        step("merging and writing", unit=BYTES) as now,
    ):
        done = export_model(
            dataclasses.replace(facts, tensors=merged_tensors(recipe, sources)),
            sources,
            wanted.out,
            shard_bytes=wanted.shard_bytes,
            progress=progress or now.to,
            replace=wanted.replace,
        )
    path = str(done.path.resolve())
    store.add_artifact(stored.id, trial.number, path, done.fingerprint)
    return Exported(
        study=study.name,
        trial=trial.number,
        path=str(done.path),
        fingerprint=done.fingerprint,
        size_bytes=done.size_bytes,
        rivals=judged.tables,
        selected=selected,
        openings=judged.openings,
        unscored=judged.unscored,
        command=load_command(done.path),
        costs=costs,
        bounds=judged.bounds,
        standing=facts.standing,
        gaps={t.objective.name: t.gap for t in judged.tables if t.gap is not None},
        alike=alike_ones,
    )


def _alike(case: Case, goal: Objective, every: Sequence[Record]) -> tuple[int, ...]:
    """Return the search's candidates that its items do not tell from the trial."""
    mine = [one for one in every if one.number == case.trial.number]
    rivals = [
        one
        for one in every
        if one.generation > 0 and one.scores is not None and not one.is_partial
    ]
    if not mine or not rivals:
        return ()
    return alike(case.store, case.stored, goal, mine[0], rivals)


def _costs(case: Case) -> tuple[CostRow, ...]:
    """Tell the costs of the trial and the baselines."""
    lookup = lookup_among(case.study.sources.values())
    baselines, _ = case.baselines()
    return tuple(
        CostRow.of(
            trial.candidate.label or f"trial {trial.number}",
            RecipeCosts.of(trial.candidate.recipe, lookup),
            (trial.scores or {}).get(SPEED_MEASURE),
        )
        for trial in (case.trial, *baselines)
    )


def load_command(folder: Path) -> str:
    """Return a shell line that loads a model folder in plain transformers."""
    from evomerge.merging.output.writer import PROCESSORS  # loads torch

    sees = any((folder / name).is_file() for name in PROCESSORS)
    # Double quotes inside, so that the shell's single quotes need no escape.
    where, prompt = json.dumps(str(folder)), json.dumps(_PROMPT)
    program = (
        "from transformers import pipeline; "
        f'print(pipeline("text-generation", {where})'
        f'({prompt}, max_new_tokens=8)[0]["generated_text"])'
    )
    if sees:  # a pipeline of images would want one
        program = (
            "from transformers import AutoModelForImageTextToText, AutoTokenizer; "
            f"t, m = (one.from_pretrained({where}) "
            "for one in (AutoTokenizer, AutoModelForImageTextToText)); "
            f'print(t.decode(m.generate(**t({prompt}, return_tensors="pt"), '
            "max_new_tokens=8)[0]))"
        )
    return shlex.join([sys.executable, "-c", program])
