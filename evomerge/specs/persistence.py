"""What the database keeps of a study: enough to go on with no file at hand.

The configuration may not change when a study is resumed; the allowance may. Paths are
allowance: sources are known by their content.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from evomerge.checkpoints import Model
from evomerge.core.digest import canonical_json, digest
from evomerge.core.space import SearchSpace
from evomerge.core.survey import Member, Surveyed
from evomerge.specs.reading.spec import Spec
from evomerge.specs.resolved import Baseline
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.sources import content_of, measured_of, whereabouts

VERSION = 1
"""Version of the stored form."""
RECIPE_VERSION = "recipe_version"
"""Key of the version of a study's recipes; those recorded before there was another
one have none, and mean the first."""
CUT_VERSION = "cut"
"""Key of the version of the cut of its items into blocks; without it, the first."""
LATER = "later"
"""Key of an allowance that holds the stages to come, which may change until then."""
PLACEMENT = (
    *("max_num_seqs", "kv_cache_mib", "options", "profile", "slots"),
    *("gpus", "cpus"),
)
"""Settings of the engine that may change on resume."""
_NO_PART = (
    *("version", "sources", "statistics", "evaluators", "stages"),
    *("budget", "workers", "start_patience_s", "timeout_s"),
)
"""Keys of a study file that are kept otherwise, or may change."""
_ONLY_IF_WRITTEN = (
    ("space", "flow", "depth"),
    ("space", "flow", "scale"),
    ("baselines", "uniform"),
)
"""Keys that say something by being there, beside a flow."""


def config_of(
    spec: StudySpec,
    models: Mapping[str, Model],
    space: SearchSpace,
    baselines: tuple[Baseline, ...],
    recipe_version: int,
) -> dict[str, Any]:
    """Return what may not change on resume, as plain JSON data."""
    version = {RECIPE_VERSION: recipe_version} if recipe_version > 1 else {}
    written = spec.model_dump(mode="json", exclude_none=True)
    for key in _NO_PART:
        written.pop(key, None)
    for path in _ONLY_IF_WRITTEN if spec.space.flow is not None else ():
        _drop_unwritten(spec, written, path)
    for key in PLACEMENT:
        written["engine"].pop(key, None)
    for task in written["tasks"].values():
        task.pop("include", None)
    recipes = {b.label: b.recipe for b in baselines}
    kept = [
        start["name"]
        for start in written["start"]
        if start.pop("recipe", None) or "trial" in start
    ]
    measured = measured_of(models, lambda file: file.fingerprint)
    return _plain(
        {
            "version": VERSION,
            **version,
            "study": written,
            "sources": {name: content_of(model) for name, model in models.items()},
            **({"statistics": measured} if measured else {}),
            "recipes": {name: recipes[name].to_json() for name in kept},
            # What follows from the above by this version's defaults: a version that
            # would read the same study otherwise must not go on with it.
            "axes": {
                axis.name: {"kind": type(axis).__name__, **asdict(axis)}
                for axis in space.axes
            },
            "order": [axis.name for axis in space.axes],
            "baselines": {label: recipe.digest for label, recipe in recipes.items()},
        }
    )


def groups_to_json(groups: Mapping[str, tuple[Member, ...]]) -> dict[str, Any]:
    """Return which tasks the study's groups stand for, as plain JSON data."""
    return _plain({name: [m.to_json() for m in groups[name]] for name in groups})


def groups_from(kept: Mapping[str, Any]) -> Surveyed:
    """Return what is kept of tasks: the members of groups; the rest is decided."""
    groups = kept.get("groups", {})
    return Surveyed(
        members={
            name: tuple(Member.from_json(m) for m in members)
            for name, members in groups.items()
        }
    )


def _drop_unwritten(spec: Spec, written: dict[str, Any], path: Sequence[str]) -> None:
    for key in path[:-1]:
        spec, written = getattr(spec, key), written[key]
    if path[-1] not in spec.model_fields_set:
        written.pop(path[-1], None)


def allowance_of(
    spec: StudySpec, models: Mapping[str, Model], file: str
) -> dict[str, Any]:
    """Return what may change on resume, and what else is needed to rebuild."""
    budget = spec.budget
    measured = measured_of(models, lambda file: str(file.path))
    return _plain(
        {
            "file": file,
            "budget": {
                "trials": budget.trials,
                "items": budget.items,
                "seconds": budget.total_seconds,
            },
            "workers": spec.workers,
            "start_patience_s": spec.start_patience_s,
            "timeout_s": spec.timeout_s,
            "engine": {key: getattr(spec.engine, key) for key in PLACEMENT},
            # A hub's model with its commit, so a branch that moves changes nothing.
            "sources": {name: whereabouts(model) for name, model in models.items()},
            **({"statistics": measured} if measured else {}),
            "includes": {
                name: str(task.include)
                for name, task in spec.tasks.items()
                if task.include is not None
            },
        }
    )


def recipe_version_of(config: Mapping[str, Any]) -> int:
    """Return the version of the recipes that a recorded study's points become."""
    version: int = config.get(RECIPE_VERSION, 1)
    return version


def cut_of(config: Mapping[str, Any]) -> int:
    """Return the version of the cut into blocks that a recorded study has."""
    version: int = config.get(CUT_VERSION, 1)
    return version


def diff(old: Mapping[str, Any], new: Mapping[str, Any]) -> list[str]:
    """List what differs between two configurations, as ``key: old -> new``."""
    a, b = dict(_flat(_short(old), "")), dict(_flat(_short(new), ""))
    lines = {
        key: f"{key.removeprefix('study.')}: {_shown(a, key)} -> {_shown(b, key)}"
        for key in sorted(a.keys() | b.keys())
        if a.get(key, _ABSENT) != b.get(key, _ABSENT)
    }
    derived = ("axes.", "order", "baselines.")
    written = [line for key, line in lines.items() if not key.startswith(derived)]
    return written or list(lines.values())


_ABSENT = object()


def _short(config: Mapping[str, Any]) -> dict[str, Any]:
    """Name recipes by their digests: nobody reads them entry by entry."""
    try:
        recipes = {name: digest(recipe) for name, recipe in config["recipes"].items()}
        short = {**config, "recipes": recipes}
        if "stage" in config:
            taken = config["stage"]["taken"].items()
            known = {n: {**one, "recipe": digest(one["recipe"])} for n, one in taken}
            short["stage"] = {**config["stage"], "taken": known}
        return short
    except (LookupError, TypeError, AttributeError):  # a database that was changed
        return dict(config)


def _flat(value: Any, path: str) -> Iterator[tuple[str, Any]]:
    """Yield every leaf with its dotted place."""
    entries: Any
    if isinstance(value, Mapping):
        entries = value.items()
    elif isinstance(value, list) and any(isinstance(v, Mapping | list) for v in value):
        entries = enumerate(value)
    else:
        yield path, value
        return
    for key, item in entries:
        yield from _flat(item, f"{path}.{key}" if path else str(key))


def _shown(leaves: Mapping[str, Any], key: str) -> str:
    return canonical_json(leaves[key]) if key in leaves else "(nothing)"


def _plain(value: dict[str, Any]) -> dict[str, Any]:
    plain: dict[str, Any] = json.loads(canonical_json(value))
    return plain
