"""What a stage takes from the stages before it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from evomerge.api.reading import goals_of
from evomerge.errors import StageError

if TYPE_CHECKING:
    from evomerge.core.trial import Record
    from evomerge.specs.completing.stage import Stage, Take, Taken
    from evomerge.store.base import Store, StoredStudy


def picked(store: Store, stage: Stage) -> dict[str, Taken]:
    """Return what a stage takes, by the name it has there.

    It follows from recorded outcomes of search items alone.

    Raises:
        StageError: There is no such candidate; the message says what to do.
    """
    from evomerge.specs.completing.stage import Taken

    out: dict[str, Taken] = {}
    for name, take in stage.take.items():
        origin = store.study(f"{stage.study}.{take.stage}")
        ranked = _ranked(store, origin, take)
        place = take.place or 0
        if place >= len(ranked):
            raise StageError(_lack(origin.name, stage, name, place, len(ranked)))
        trial = store.trial(origin.id, ranked[place].number)
        out[name] = Taken(trial.candidate.recipe, trial.number)
    return out


def _ranked(store: Store, origin: StoredStudy, take: Take) -> Sequence[Record]:
    from evomerge.search.selection import best_by, front_first

    objectives, constraints = goals_of(origin)
    records = store.history(origin.id)
    if take.place is not None:
        return front_first(objectives, records, constraints)
    named = {objective.name: objective for objective in objectives}
    objective = objectives[0] if take.best is None else named[take.best]
    best = best_by(objective, records, constraints)
    return () if best is None else (best,)


def _lack(study: str, stage: Stage, name: str, place: int, n: int) -> str:
    wanted = "a candidate" if place == 0 else f"{place + 1} different candidates"
    return (
        f"Stage {stage.name!r} takes {name!r} from {study!r}, which should have "
        f"{wanted} that is scored and keeps every constraint, but has {n}. Nothing is "
        f"lost: give that stage a larger budget (evomerge resume {study} --trials N), "
        "or begin a new study with looser constraints."
    )
