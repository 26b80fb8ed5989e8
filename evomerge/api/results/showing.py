"""Everything that the database holds of one trial."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.api.housekeeping import AttemptRow, attempts_of, opened_study
from evomerge.api.results.reading import TrialRow, rows_of
from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import ItemRole, Outcome, TaskDescription
from evomerge.core.study import Direction, Measure, Objective
from evomerge.errors import EvomergeError, StoreError
from evomerge.store.base import Store, StoredStudy


@dataclass(frozen=True, slots=True)
class MeasureRow:
    """The mean of one metric over the items that the search scored.

    Attributes:
        measure: ``task/metric``.
        low: Lower end of the 95 % interval over items, which holds for a trial that was
            not chosen by these items.
        high: Its upper end.
        n_items: Items scored.
    """

    measure: str
    value: float
    low: float
    high: float
    n_items: int


@dataclass(frozen=True, slots=True)
class Shown:
    """One trial.

    Attributes:
        study: Name of the study, with its stage.
        trial: As in the list of trials.
        is_front: No feasible trial dominates it.
        measures: Of every task, as far as items are scored.
        n_items: Items scored of the recipe, by whichever trial.
        attempts: How often it was started, and how each attempt ended.
        summary: What is merged where: place, tensors, operator, inputs and knobs.
        recipe: Its canonical form.
        mergekit: The same as a mergekit file; None if there is none.
        mergekit_lacks: Why there is none, or what it does not say.
    """

    study: str
    trial: TrialRow
    is_front: bool
    measures: tuple[MeasureRow, ...]
    n_items: int
    attempts: tuple[AttemptRow, ...]
    summary: tuple[tuple[str, ...], ...]
    recipe: Mapping[str, Any]
    mergekit: str | None
    mergekit_lacks: tuple[str, ...]


def show(name: str, number: int, *, db: str, cache_dir: Path | None = None) -> Shown:
    """Return all that is known of one trial; nothing is scored and no weight read.

    Args:
        name: Of the study, or of one stage; of a study with stages the last begun.
        number: Of the trial.
        db: Database.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.

    Raises:
        StudyNotFoundError: There is no such study.
        StoreError: There is no such trial.
    """
    from evomerge.export.tables import recipe_rows

    with opened_study(db, name) as (store, stored):
        recipe = store.trial(stored.id, number).candidate.recipe
        rows, standings = rows_of(store, stored)
        row = next((row for row in rows if row.number == number), None)
        if row is None:
            raise StoreError(f"Study {stored.name!r} has no trial {number} any more.")
        measures, n_items = _measures(store, stored, recipe)
        text, lacks = _mergekit(stored, recipe, cache_dir)
        return Shown(
            study=stored.name,
            trial=row,
            is_front=number in standings.front,
            measures=measures,
            n_items=n_items,
            attempts=attempts_of(store, stored.id, number),
            summary=tuple(recipe_rows(recipe, {})),
            recipe=json.loads(recipe.text),
            mergekit=text,
            mergekit_lacks=lacks,
        )


def _measures(
    store: Store, stored: StoredStudy, recipe: Recipe
) -> tuple[tuple[MeasureRow, ...], int]:
    tasks = store.tasks(stored.id) or ()
    known = store.outcomes_under(recipe.digest, {t.protocol.digest for t in tasks})
    rows: list[MeasureRow] = []
    n_items = 0
    for task in tasks:
        ids = set(task.manifest.ids_of(ItemRole.SEARCH))
        scored = [o for i, o in known[task.protocol.digest].items() if i in ids]
        n_items += len(scored)
        rows += [_measure(task, metric, scored) for metric in task.metrics if scored]
    return tuple(rows), n_items


def _measure(
    task: TaskDescription, metric: str, scored: Sequence[Outcome]
) -> MeasureRow:
    import numpy as np

    from evomerge.export.intervals import estimate
    from evomerge.export.item_scores import ItemScores

    measure = Measure(task.manifest.task, metric)
    goal = Objective(str(measure), Direction.MAXIMIZE, (measure,), (1.0,))
    scores = ItemScores.of(goal, {measure.task: scored})
    said = estimate(goal, scores, np.random.default_rng(0))
    return MeasureRow(str(measure), said.value, said.low, said.high, len(scored))


def _mergekit(
    stored: StoredStudy, recipe: Recipe, cache_dir: Path | None
) -> tuple[str | None, tuple[str, ...]]:
    from evomerge.specs.canonical import yaml_text
    from evomerge.specs.mergekit import write_mergekit
    from evomerge.specs.studies.restored import restore

    try:
        study = restore(stored.config, stored.allowance, cache_dir=cache_dir)
        allow = tuple(stored.config["study"].get("allow", ()))
        written = write_mergekit(recipe, study.sources, allow)
    except EvomergeError as error:  # the rest can be shown without the sources
        return None, tuple(str(error).splitlines())
    if written.losses:
        return None, tuple(written.losses)
    return yaml_text(written.data), tuple(written.notes)
