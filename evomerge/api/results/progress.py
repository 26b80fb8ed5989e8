"""How the stages of a study stand, those to come among them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from evomerge.api.housekeeping import opened, state_of
from evomerge.api.results.reading import Best, goals_of, read_bests
from evomerge.api.staged import about, stages_of
from evomerge.store.base import Store, StoredStudy

WAITING = "waiting"


@dataclass(frozen=True, slots=True)
class StageRow:
    """A stage at a glance.

    Attributes:
        state: Who searches it, ``stopped``, why the search ended, or ``waiting``.
        trials: Candidates asked of the strategy.
        allowed: How many of them the budget allows; None for any number.
        front_size: Feasible trials that no other dominates.
        best: The best trial of each objective, by what the search saw.
        takes: Name of each source it takes from a stage, to where it is from.
    """

    name: str
    state: str
    trials: int
    allowed: int | None
    front_size: int
    best: tuple[Best, ...]
    takes: Mapping[str, str]


def stages(name: str, *, db: str) -> tuple[StageRow, ...]:
    """Return the stages of a study, in order; none for a study without."""
    with opened(db) as store:
        begun = stages_of(store, name)
        rows = [_row(store, stored) for stored in begun]
        later = begun[-1].allowance.get("later", ()) if begun else ()
    return (*rows, *(_waiting(kept) for kept in later))


def _row(store: Store, stored: StoredStudy) -> StageRow:
    (entry,) = store.overview(stored.id)
    standings = read_bests(store, stored, *goals_of(stored))
    said = about(stored) or {}
    return StageRow(
        name=stored.name,
        state=state_of(entry),
        trials=entry.usage.trials,
        allowed=stored.allowance.get("budget", {}).get("trials"),
        front_size=standings.front_size,
        best=standings.best,
        takes={
            name: f"trial {taken['trial']} of {said['take'][name]['stage']}"
            for name, taken in said.get("taken", {}).items()
        },
    )


def _waiting(kept: Mapping[str, Any]) -> StageRow:
    return StageRow(
        name=kept["study"]["name"],
        state=WAITING,
        trials=0,
        allowed=kept["allowance"]["budget"]["trials"],
        front_size=0,
        best=(),
        takes={name: one["stage"] for name, one in kept["stage"]["take"].items()},
    )
