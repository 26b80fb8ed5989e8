"""What other studies found, for one that is to begin with it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.api.results.reading import goals_of
from evomerge.api.staged import found
from evomerge.errors import ExportError, StudyNotFoundError
from evomerge.search.selection import front_first
from evomerge.specs.completing.context import Finder, Found
from evomerge.specs.persistence import diff
from evomerge.specs.resolved import ResolvedStudy
from evomerge.store.base import Store
from evomerge.store.sql import open_store

_MOST_SAID = 8
_WHERE = ("axes", "order", "baselines", "stage")


def finder_in(db: str) -> Finder:
    """Return what finds candidates of the studies in a database.

    They follow from recorded outcomes of search items alone: the front first. A study
    that is recorded keeps those that it began with.
    """

    def find(
        name: str, other: str, top: int | None, trial: int | None
    ) -> Sequence[Found]:
        store = open_store(db, create=False)
        try:
            wanted = [] if trial is None else [trial]
            wanted = wanted or _recorded(store, name, other, top)
            stored = found(store, other, finished=True)
            if not wanted:
                objectives, constraints = goals_of(stored)
                ranked = front_first(objectives, store.history(stored.id), constraints)
                wanted = [one.number for one in ranked if one.generation > 0][:top]
            if not wanted:
                raise ExportError(
                    f"Study {other!r} has no scored candidate that keeps its bounds "
                    "yet; see `evomerge trials`."
                )
            trials = [store.trial(stored.id, number) for number in wanted]
        finally:
            store.close()
        return [
            Found(one.number, one.candidate.recipe, one.candidate.point)
            for one in trials
        ]

    return find


def _recorded(store: Store, name: str, other: str, top: int | None) -> list[int]:
    """Return the trials of another study that a recorded one began with."""
    try:
        starts = store.study(name).config["study"]["start"]
    except StudyNotFoundError:
        return []
    asked = (other, top)
    return [s["trial"] for s in starts if (s.get("study"), s.get("top")) == asked]


def _searched(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return of a configuration what is searched and how, without where it begins."""
    study = {k: v for k, v in config["study"].items() if k not in ("name", "start")}
    kept = {k: v for k, v in config.items() if k not in _WHERE}
    return {**kept, "study": study, "recipes": {}}


def said_of_starts(study: ResolvedStudy, db: str) -> list[str]:
    """Say for each study that this one begins with what is not as it was there."""
    others = {s["study"] for s in study.config["study"]["start"] if "study" in s}
    said = []
    for other in sorted(others):
        store = open_store(db, create=False)
        try:
            config = found(store, other, finished=True).config
        finally:
            store.close()
        changes = diff(_searched(config), _searched(study.config))
        listed = "; ".join(changes[:_MOST_SAID])
        more = f"; and {n} more" if (n := len(changes) - _MOST_SAID) > 0 else ""
        as_there = "nothing is otherwise than there"
        said.append(
            f"{study.name!r} begins with what {other!r} found; "
            + (f"otherwise than there: {listed}{more}" if changes else as_there)
        )
    return said
