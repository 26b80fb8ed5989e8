"""A study in Python: searched, looked at, gone on with and exported by one name."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from evomerge.api.plain import flat, plain
from evomerge.api.results import reading, showing
from evomerge.caches import cache_dir
from evomerge.core.study import Budget
from evomerge.errors import EvomergeError
from evomerge.specs.studies.study_file import Written

if TYPE_CHECKING:  # they load torch
    from evomerge.api.models.exporting import Exported
    from evomerge.search.scoreboard import Progress

DEFAULT_DB = "sqlite:///evomerge.db"

Observer = Callable[["Progress"], None]


@dataclass(frozen=True, slots=True)
class Study:
    """A study of a database; everything is read anew when it is asked for.

    Attributes:
        name: Of the study, or of one stage of it; that of a study with stages stands
            for the last that has begun.
        db: Database URL.
    """

    name: str
    db: str = field(repr=False)

    def status(self) -> reading.Status:
        """Return how it stands."""
        return reading.status(self.name, db=self.db)

    def trials(self) -> list[dict[str, Any]]:
        """Return every trial, by number, as a flat record.

        A record has a key for each objective, each measure (``task/metric``) and each
        axis (``point.NAME``), so ``pandas.DataFrame(study.trials())`` is a table.
        """
        return [record(row) for row in reading.trials(self.name, db=self.db)]

    def front(self) -> list[dict[str, Any]]:
        """Return the feasible trials that no other dominates, as flat records."""
        return [record(row) for row in reading.front(self.name, db=self.db)]

    def best(self, objective: str | None = None) -> dict[str, Any]:
        """Return the best trial of an objective, the first if none is named.

        Raises:
            EvomergeError: There is none yet, or no such objective.
        """
        found = {best.objective: best.trial for best in self.status().best}
        if not found or objective not in (None, *found):
            said = f"of {objective!r}; there is one of {', '.join(found)}" * bool(found)
            raise EvomergeError(f"{self.name} has no best trial {said or 'yet'}.")
        number = found[objective] if objective else next(iter(found.values()))
        return next(row for row in self.trials() if row["number"] == number)

    def plot(self, out: str | Path) -> Path:
        """Draw the trials as an SVG file: the front, or the best so far.

        Two objectives are drawn against each other, one over the number of the trial;
        of three and more, the first two.

        Args:
            out: File to write.

        Raises:
            EvomergeError: Nothing is scored yet.
        """
        from evomerge.api.results.plot import plots
        from evomerge.api.results.svg import svg

        trials = plain(reading.trials(self.name, db=self.db))
        drawn = plots(trials, plain(reading.front(self.name, db=self.db)))
        if not drawn:
            raise EvomergeError(f"{self.name} has no scored trial to draw yet.")
        file = Path(out)
        file.write_text(svg(drawn[0]), encoding="utf-8")
        return file

    def show(self, trial: int) -> showing.Shown:
        """Return all that is known of a trial, its recipe among it."""
        return showing.show(self.name, trial, db=self.db, cache_dir=cache_dir())

    def resume(
        self,
        budget: Budget | None = None,
        *,
        workers: int | None = None,
        address: str | None = None,
        in_process: bool = False,
        observer: Observer | None = None,
    ) -> Study:
        """Go on with it, and its further stages.

        Args:
            budget: Limits that change, for the whole study.
            workers: Engines at once; None takes what it had.
            address: A running Ray cluster; None takes the one it ran on.
            in_process: One worker inside this process, without Ray.
            observer: Called with the progress, several times a second.
        """
        from evomerge.api.preparing import take_up
        from evomerge.api.running import Where

        where = Where(workers, address, in_process, cache_dir())
        prepared = take_up(self.name, db=self.db, where=where, budget=budget)
        return _searched(prepared, self.db, observer)

    def export(
        self,
        out: str | Path,
        *,
        trial: int | None = None,
        is_scored: bool = True,
        replace: bool = False,
    ) -> Exported:
        """Write a trial, or the best one, as a model folder with a card.

        Args:
            out: Folder to make.
            trial: Its number; None takes the best of the first objective.
            is_scored: Score it and the baselines on held-out items first.
            replace: Replace an earlier export in ``out``.
        """
        from evomerge.api.models.exporting import Export, export

        wanted = Export(trial, Path(out), is_scored, replace)
        return export(self.name, wanted, db=self.db, cache_dir=cache_dir())


def run(
    study: Written,
    *,
    db: str | None = None,
    workers: int | None = None,
    address: str | None = None,
    in_process: bool = False,
    observer: Observer | None = None,
) -> Study:
    """Search as a study says, until its budget is used; or go on with it.

    Args:
        study: A file, or what would stand in one, its paths relative to this folder.
        db: Database URL; None takes ``$EVOMERGE_DB``, else ``evomerge.db`` in this
            folder.
        workers: Engines at once; None takes what the study says.
        address: A running Ray cluster; None starts Ray on this machine.
        in_process: One worker inside this process, without Ray.
        observer: Called with the progress, several times a second.

    Returns:
        The study; of one with stages the whole.

    Raises:
        SpecError: Every mistake in the study and its sources.
        StudyExistsError: The name is taken by another configuration.
    """
    from evomerge.api.preparing import prepare
    from evomerge.api.running import Where

    url = _database(db)
    where = Where(workers, address, in_process, cache_dir())
    return _searched(prepare(study, db=url, where=where), url, observer)


def load(name: str, *, db: str | None = None) -> Study:
    """Return a study of a database by its name.

    Raises:
        StudyNotFoundError: There is no such study.
    """
    from evomerge.api.housekeeping import opened
    from evomerge.api.staged import found

    with opened(_database(db)) as store:
        found(store, name)
    return Study(name, _database(db))


def record(row: object) -> dict[str, Any]:
    """Return a row of ``trials`` or ``front`` without mappings in it."""
    return flat(plain(row))


def _searched(prepared: Any, db: str, observer: Observer | None) -> Study:
    from evomerge.api.preparing import following
    from evomerge.api.running import search

    name = prepared.name
    if prepared.stage is not None:
        name = str(prepared.study.config["stage"]["study"])
    while prepared is not None:
        search(prepared, observer)
        prepared = following(prepared)
    return Study(name, db)


def _database(url: str | None) -> str:
    return url or os.environ.get("EVOMERGE_DB") or DEFAULT_DB
