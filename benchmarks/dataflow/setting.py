"""What is searched: models, tasks, and the study file of every way to search them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

N_SEARCH = 75
"""Search items of each task."""
SEALED = {"en_hard": 90}
"""Task to its held-out items, where there are no 300: all that are left."""

PS, DFS, PS_DFS, JOINT = "PS", "DFS", "PS→DFS", "joint"
RANDOM = "random in "
VARIANTS = (PS, DFS, PS_DFS, JOINT, RANDOM + PS, RANDOM + DFS, RANDOM + JOINT)
"""PS: weights of a merge. DFS: which layers of the experts run. PS→DFS: one after the
other, half of the budget each. Joint: both at once."""

_MERGED = "merged"


@dataclass(frozen=True, slots=True)
class Setting:
    """Some models, and what a merge of them should be good at.

    Attributes:
        title: Its name in tables.
        sources: Name to folder.
        operator: The keys of a space that describe the merge.
        experts: Whose layers a data flow has; a search of it begins with the first.
        tasks: Name to task, as in a study file.
        others: Further baselines, as in a study file.
        engine: As in a study file.
        sigma: First step size of CMA-ES over the weights alone.
    """

    name: str
    title: str
    sources: Mapping[str, str]
    operator: Mapping[str, Any]
    experts: tuple[str, ...]
    tasks: Mapping[str, Mapping[str, Any]]
    engine: Mapping[str, Any]
    others: tuple[Mapping[str, Any], ...] = ()
    sigma: float = 0.25

    def study(self, job: Job, trials: int) -> dict[str, Any]:
        """Return a study file, as plain data."""
        study: dict[str, Any] = {
            "name": job.study,
            "seed": job.seed,
            "sources": dict(self.sources),
            "tasks": {name: dict(task) for name, task in self.tasks.items()},
            "items": {"blocks": 1},
            "objectives": [
                {"name": "skill", "mean_of": sorted(self.tasks), "worst": 0.5}
            ],
            "engine": dict(self.engine),
            "workers": 1,
        }
        if job.variant == PS_DFS:
            return study | {"stages": self._stages(trials)}
        search = self._search(job.variant.removeprefix(RANDOM))
        if job.variant.startswith(RANDOM):
            search["strategy"] = {"kind": "random", "generation_size": 8}
        return study | search | self._rivals | {"budget": {"trials": trials}}

    @property
    def _rivals(self) -> dict[str, Any]:
        average = {
            "name": "uniform",
            "operator": "linear",
            "experts": list(self.experts),
        }
        # The same in every space, also where none is merged.
        others = [average, *(dict(other) for other in self.others)]
        return {"baselines": {"uniform": False, "others": others}}

    def _stages(self, trials: int) -> list[dict[str, Any]]:
        """The best merge of the first half is a source of the second."""
        first, rest = trials // 2, trials - trials // 2
        weights = {"name": "weights", **self._search(PS), **self._rivals}
        layers = {
            "name": "layers",
            "take": {_MERGED: {"stage": "weights"}},
            "space": {"flow": self._flow(_MERGED)},
            "strategy": _MIXED,
            "baselines": {"parents": False, "uniform": False},
        }
        return [
            {**weights, "budget": {"trials": first}},
            {**layers, "budget": {"trials": rest}},
        ]

    def _search(self, variant: str) -> dict[str, Any]:
        """Return space and strategy."""
        if variant == PS:
            strategy = {
                "kind": "cma",
                "generation_size": 12,
                "options": {"sigma": self.sigma},
            }
            return {"space": dict(self.operator), "strategy": strategy}
        if variant == DFS:
            return {"space": {"flow": self._flow()}, "strategy": _MIXED}
        space = {**self.operator, "flow": self._flow("merge")}
        return {"space": space, "strategy": _MIXED}

    def _flow(self, *first: str) -> dict[str, Any]:
        """Layers in series, each on or off."""
        return {"kind": "gates", "sources": [*first, *self.experts]}


_MIXED = {"kind": "catcma", "options": {"sigma": 0.1}}


@dataclass(frozen=True, slots=True, order=True)
class Job:
    """One search.

    Attributes:
        setting: Name of a setting.
        variant: One of ``VARIANTS``.
    """

    setting: str
    variant: str
    seed: int

    @property
    def study(self) -> str:
        """Its name in the database and of its files."""
        words = self.variant.lower().replace(" ", "-").replace("→", "-")
        return f"{self.setting}-{words}-{self.seed}"


def zoo_setting(zoo: Path, engine: str) -> Setting:
    """Base and three experts trained from it; four tasks, one that none was taught."""
    experts = ("ja", "math", "sort")
    weight: dict[str, Any] = {"low": -0.5, "high": 1.8, "start": 0.75, "grid": 0.01}
    weight["by"] = {"groups": 1, "ends": "own"}
    return Setting(
        name="zoo",
        title="The zoo: three experts of one base",
        sources={name: str(zoo / name) for name in ("base", *experts)},
        operator={
            "operator": "task_arithmetic",
            "base": "base",
            "experts": list(experts),
            "knobs": {"weight": weight},
        },
        experts=experts,
        tasks=_tasks(zoo, ("en_hard", "en_sort5", "jd_sort4", "jd_sort5")),
        engine=_engine(engine),
        others=(
            {
                "name": "task arithmetic",
                "operator": "task_arithmetic",
                "base": "base",
                "experts": list(experts),
                "grid": {"lambda": [0.7, 0.8, 0.9, 1.0]},
            },
        ),
    )


def depths_setting(pair: Path, zoo: Path, engine: str) -> Setting:
    """Two experts with new layers in different depths; a task for each."""
    experts = ("early", "late")
    weight: dict[str, Any] = {"low": 0.0, "high": 1.2, "start": 0.5, "grid": 0.01}
    weight["by"] = {"groups": 1, "ends": "own"}
    return Setting(
        name="depths",
        title="Experts whose skills sit in different depths",
        sources={name: str(pair / name) for name in experts},
        operator={
            "operator": "linear",
            "experts": list(experts),
            "knobs": {"weight": weight, "normalize": False},
        },
        experts=experts,
        tasks=_tasks(zoo, ("en_hard", "en_sort5")),
        engine=_engine(engine),
    )


def _tasks(zoo: Path, names: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    return {
        name: {
            "task": name,
            "include": str(zoo / "tasks"),
            "metric": "exact_match",
            "items": _items(SEALED.get(name, 300)),
        }
        for name in names
    }


def _items(n_sealed: int) -> dict[str, list[str]]:
    """The first are searched on, the next are held out; tasks are in random order."""
    return {
        "search": [str(k) for k in range(N_SEARCH)],
        "report": [str(k) for k in range(N_SEARCH, N_SEARCH + n_sealed)],
    }


def _engine(kind: str) -> dict[str, Any]:
    return {"kind": kind, "dtype": "float32"}
