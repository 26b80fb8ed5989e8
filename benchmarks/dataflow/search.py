"""One search of the comparison, and how good its winner is on held-out items."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dataflow.setting import Job, Setting

from evomerge import api

Tell = Callable[[str, int], None]
"""Told a study's name and how many of its candidates are done."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where searches are kept.

    Attributes:
        folder: Holds the database, study files and results.
        trials: Candidates of one search.
    """

    folder: Path
    trials: int

    @property
    def db(self) -> str:
        """URL of the one database."""
        return f"sqlite:///{self.folder / 'dataflow.db'}"

    def result(self, job: Job) -> Path:
        """Return the file of a result."""
        return self.folder / "results" / f"{job.study}.json"


@dataclass(frozen=True, slots=True)
class Result:
    """How one search ended.

    Attributes:
        search: The winner's objective on the items it was chosen by.
        sealed: The same on held-out items.
        means: Task measure to the winner's mean on held-out items.
        rivals: Label of each baseline to its objective on held-out items.
        layers: How many layers the winner runs.
        trials: Candidates, over all stages.
        repeated: How many of them had been met before in the same search.
        curve: Best objective on search items after each candidate.
        seconds: Wall time.
    """

    setting: str
    variant: str
    seed: int
    search: float
    sealed: float
    means: Mapping[str, float]
    rivals: Mapping[str, float]
    layers: int
    trials: int
    repeated: int
    curve: tuple[float, ...]
    seconds: float

    @property
    def job(self) -> Job:
        """The search."""
        return Job(self.setting, self.variant, self.seed)


def load(place: Place, job: Job) -> Result | None:
    """Return a recorded result of as many candidates, None if there is none."""
    try:
        plain: dict[str, Any] = json.loads(place.result(job).read_text("utf-8"))
        found = Result(**plain | {"curve": tuple(plain["curve"])})
    except (OSError, ValueError, TypeError, KeyError):
        return None
    return found if found.trials == place.trials else None


def run(setting: Setting, job: Job, place: Place, tell: Tell) -> Result:
    """Search, or go on with a search, and score its winner on held-out items."""
    began = time.monotonic()
    plain = setting.study(job, place.trials)
    file = place.folder / "studies" / f"{job.study}.yaml"
    _write(file, plain)
    where = api.Where(
        workers=1, address=None, in_process=True, cache_dir=place.folder / "cache"
    )
    stages = [f"{job.study}.{stage['name']}" for stage in plain.get("stages", ())]
    names = stages or [job.study]
    _search(file, names, place, where, tell)
    rows = {name: _proposed(name, place.db) for name in names}
    every = [(name, row) for name in names for row in rows[name]]
    winner, best = max(every, key=lambda one: one[1].values.get("skill", -1.0))
    sealed = _judged(winner, best.number, place.db, where.cache_dir)
    result = Result(
        setting=job.setting,
        variant=job.variant,
        seed=job.seed,
        search=best.values["skill"],
        trials=len(every),
        repeated=len(every) - len({row.recipe for _, row in every}),
        curve=_curve([row for _, row in every]),
        seconds=time.monotonic() - began,
        **sealed,
    )
    _write(place.result(job), asdict(result))
    return result


def _search(
    file: Path, names: list[str], place: Place, where: api.Where, tell: Tell
) -> None:
    prepared: api.Prepared | None = api.prepare(file, db=place.db, where=where)
    while prepared is not None:
        now = prepared
        before = sum(
            len(_proposed(name, place.db)) for name in names[: names.index(now.name)]
        )

        def watch(progress: Any, name: str = names[0], before: int = before) -> None:
            tell(name, before + progress.done)

        api.search(now, watch)
        prepared = api.following(now)


def _proposed(name: str, db: str) -> list[api.TrialRow]:
    """Return the trials that a strategy proposed."""
    return [row for row in api.trials(name, db=db) if row.generation > 0]


def _curve(rows: list[api.TrialRow]) -> tuple[float, ...]:
    best, found = 0.0, []
    for row in rows:
        best = max(best, row.values.get("skill", best))
        found.append(best)
    return tuple(found)


def _judged(name: str, number: int, db: str, cache_dir: Path) -> dict[str, Any]:
    """Score a trial and generation 0 on held-out items."""
    from evomerge.api.models.held_out import Case, judge
    from evomerge.specs.studies.restored import restore
    from evomerge.store.sql import open_store

    store = open_store(db, create=False)
    try:
        stored = store.study(name)
        study = restore(stored.config, stored.allowance, cache_dir=cache_dir)
        trial = store.trial(stored.id, number)
        judged = judge(Case(store, stored, study, trial), cache_dir)
    finally:
        store.close()
    chosen, *others = judged.tables[0].rows
    return {
        "sealed": chosen.value.value,
        "means": {name: mean.value for name, mean in chosen.means.items()},
        "rivals": {row.label: row.value.value for row in others},
        "layers": len(trial.candidate.recipe.slots),
    }


def _write(path: Path, plain: Mapping[str, Any]) -> None:
    """Write JSON, which is YAML as well; whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f"{path.name}.part")
    part.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", "utf-8")
    part.replace(path)
