"""A scan of blocks: which layers of a model, run twice, help, and how sure that is.

On the items of the search every block is compared with the unchanged model, with a
p-value that is corrected for all the blocks there are. Whoever is the best of hundreds
is so by luck in part: how good the best few are, only held-out items tell.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from evomerge.api.housekeeping import opened_study
from evomerge.api.models.held_out import COMPARED, Case, answers
from evomerge.api.results.alike import search_scores
from evomerge.api.results.reading import REPORT_OPENED, goals_of
from evomerge.caches import cache_dir as user_cache
from evomerge.core.study import Direction, Objective
from evomerge.core.trial import Trial, TrialState
from evomerge.errors import ExportError
from evomerge.export.heat_map import Heat, heat_map
from evomerge.export.intervals import Estimate, difference, estimate
from evomerge.export.report import scores_on
from evomerge.export.stats import Verdict, best_of_many, holm, swap_test, verdict
from evomerge.specs.studies.restored import restore
from evomerge.store.base import Store, StoredStudy

_FIRST, _LAYERS = "block.first", "block.layers"


@dataclass(frozen=True, slots=True)
class HeldOut:
    """A block against the unchanged model on held-out items.

    Attributes:
        value: The objective.
        difference: From the unchanged model's, paired, with its 95 % interval.
        p_value: Two-sided, of this comparison alone.
        adjusted: Holm's, over all comparisons ever made on these items.
    """

    value: float
    difference: Estimate
    p_value: float
    adjusted: float
    verdict: Verdict


@dataclass(frozen=True, slots=True)
class Block:
    """Layers ``first`` to ``first + layers - 1``, run twice.

    Attributes:
        trial: The first that ran it.
        value: The objective on the items of the search.
        difference: From the unchanged model's, as measured.
        corrected: p-value of that difference for the best of so many blocks.
        held_out: None unless it was one of the few that were looked at there.
    """

    first: int
    layers: int
    trial: int
    value: float
    difference: float
    corrected: float
    held_out: HeldOut | None = None

    @property
    def name(self) -> str:
        """The layers, from 0, in words."""
        last = self.first + self.layers - 1
        return f"layer {last}" if self.layers == 1 else f"layers {self.first}-{last}"


@dataclass(frozen=True, slots=True)
class Scan:
    """Every block that was scored, the best first.

    Attributes:
        depth: Layers of the model.
        n_items: Items of the search, over the objective's tasks.
        unchanged: The model as it stands, on the items of the search.
        held_out: The same on held-out items, with its interval; None if nobody looked.
        n_held_out: Held-out items.
        openings: How often held-out items of the study were scored.
    """

    study: str
    objective: Objective
    depth: int
    n_items: int
    unchanged: float
    blocks: tuple[Block, ...]
    held_out: Estimate | None = None
    n_held_out: int = 0
    openings: int = 0

    def svg(self) -> str:
        """Draw the scan: first layer against length."""
        sign = 1 if self.objective.direction is Direction.MAXIMIZE else -1
        best = self.blocks[0]
        cells = [
            Heat(
                block.first,
                block.layers,
                sign * block.difference,
                f"{block.name} twice: {block.value:.3f} ({block.difference:+.3f})",
                marked=block is best,
            )
            for block in self.blocks
        ]
        title = f"{self.study}: {self.objective.name} with a block run twice"
        said = (
            f"unchanged {self.unchanged:.3f}, best {best.value:.3f} (framed); "
            f"{len(cells)} blocks, {self.n_items} items"
        )
        return heat_map(title, said, self.depth, cells)


def scan(
    name: str,
    *,
    db: str,
    objective: str | None = None,
    held_out: int = 0,
    cache_dir: Path | None = None,
) -> Scan:
    """Compare every block that a study ran twice with the unchanged model.

    Args:
        name: A study of flow kind ``block`` whose blocks run twice.
        db: Database.
        objective: Its name; the first that is no cost if not given.
        held_out: So many of the best blocks are scored on held-out items, if they were
            not before, together with the unchanged model.
        cache_dir: For the engine; this user's if not given.

    Raises:
        StudyNotFoundError: There is no such study.
        ExportError: It is no such study, has no such objective, or the unchanged model
            or every block is missing.
    """
    with opened_study(db, name) as (store, stored):
        goal = _goal(stored, objective)
        unchanged, ran = _scored(store, stored)
        found = _compared(store, stored, goal, unchanged, ran)
        if held_out:
            some = found.blocks[:held_out]
            trials = [ran[block.first, block.layers] for block in some]
            cache = cache_dir or user_cache()
            study = restore(stored.config, stored.allowance, cache_dir=cache)
            case = Case(store, stored, study, unchanged)
            return _looked_at(found, case, trials, cache)
        return found


def _goal(stored: StoredStudy, name: str | None) -> Objective:
    goals = [goal for goal in goals_of(stored)[0] if goal.by_item]
    chosen = [goal for goal in goals if name in (None, goal.name)]
    if not chosen:
        known = ", ".join(goal.name for goal in goals) or "none that items decide"
        raise ExportError(
            f"Study {stored.name!r} has no objective {name!r}; it has {known}."
        )
    return chosen[0]


def _scored(
    store: Store, stored: StoredStudy
) -> tuple[Trial, dict[tuple[int, int], Trial]]:
    """Return the unchanged model's trial, and each block's first, by its layers."""
    done = [
        t
        for t in store.trials(stored.id)
        if t.state is TrialState.SCORED and not t.record().is_partial
    ]
    points = [(trial, trial.candidate.point) for trial in done if trial.candidate.point]
    if not points:
        raise ExportError(f"Study {stored.name!r} has no scored candidates yet.")
    if any(set(point) != {_FIRST, _LAYERS} for _, point in points):
        raise ExportError(
            f"Study {stored.name!r} does not scan blocks: expected a space of flow "
            "kind block alone, with one block that runs twice."
        )
    # Generation 0 has the source as it is, and a grid the block of no layers.
    plain = min(done, key=lambda trial: (_depth(trial), trial.number))
    ran: dict[tuple[int, int], Trial] = {}
    for trial, point in points:
        # What a block was cut to, by the end of the model or the depth allowed.
        n_layers = _depth(trial) - _depth(plain)
        if n_layers:
            ran.setdefault((int(point[_FIRST]), n_layers), trial)
    if not ran:
        raise ExportError(f"Study {stored.name!r} has no scored blocks yet.")
    return plain, ran


def _depth(trial: Trial) -> int:
    return len(trial.candidate.recipe.slots)


def _compared(
    store: Store,
    stored: StoredStudy,
    goal: Objective,
    unchanged: Trial,
    ran: Mapping[tuple[int, int], Trial],
) -> Scan:
    tasks = store.tasks(stored.id) or ()
    reference, *scores = (
        search_scores(store, tasks, goal, trial.candidate.recipe.digest)
        for trial in (unchanged, *ran.values())
    )
    rng = np.random.default_rng([stored.seed, len(ran)])
    corrected = best_of_many(goal, scores, reference, rng)
    base = reference.value(goal)
    blocks = [
        Block(first, n, trial.number, one.value(goal), one.value(goal) - base, p)
        for ((first, n), trial), one, p in zip(
            ran.items(), scores, corrected, strict=True
        )
    ]
    sign = -1 if goal.direction is Direction.MAXIMIZE else 1
    blocks.sort(key=lambda b: (sign * b.value, b.layers, b.first))
    return Scan(
        study=stored.name,
        objective=goal,
        depth=_depth(unchanged),
        n_items=sum(map(len, reference.items.values())),
        unchanged=base,
        blocks=tuple(blocks),
    )


def _looked_at(
    found: Scan, case: Case, trials: Sequence[Trial], cache_dir: Path
) -> Scan:
    """Score the unchanged model and a few blocks on held-out items, and compare."""
    store, stored, goal = case.store, case.stored, found.objective
    unscored: dict[str, str] = {}
    answered = answers(case, (case.trial, *trials), cache_dir, unscored)
    for label, why in unscored.items():
        raise ExportError(f"{label} of {stored.name!r} cannot be scored: {why}")
    plain, *others = (scores_on(goal, one) for one in answered)
    rng = np.random.default_rng([stored.seed, len(trials)])
    pairs = [difference(goal, other, plain, rng) for other in others]
    p_values = [swap_test(goal, other, plain, rng) for other in others]
    mine = {trial.number for trial in trials}
    earlier = [
        float(p)
        for made in store.events(stored.id, COMPARED)
        if made.data["trial"] not in mine
        for p in made.data["p_values"]
    ]
    for trial, p in zip(trials, p_values, strict=True):
        store.add_event(stored.id, COMPARED, {"trial": trial.number, "p_values": [p]})
    adjusted = holm([*p_values, *earlier])
    held = [
        HeldOut(other.value(goal), pair, p, q, verdict(goal, pair, q))
        for other, pair, p, q in zip(others, pairs, p_values, adjusted, strict=False)
    ]
    blocks = [
        replace(block, held_out=one)
        for block, one in zip(found.blocks, held, strict=False)
    ]
    return replace(
        found,
        blocks=(*blocks, *found.blocks[len(blocks) :]),
        held_out=estimate(goal, plain, rng),
        n_held_out=sum(map(len, plain.items.values())),
        openings=len(store.events(stored.id, REPORT_OPENED)),
    )
