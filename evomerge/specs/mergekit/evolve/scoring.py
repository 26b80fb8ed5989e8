"""The tasks of mergekit-evolve as tasks and objectives of a study."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.core.meter import SOURCES
from evomerge.specs.mergekit.evolve.schema import EvolveSpec, EvolveTaskSpec
from evomerge.specs.reading.mistakes import Mistakes

_MOST_FILE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class Scoring:
    """What candidates are tested on, and what is wanted of them."""

    tasks: Mapping[str, Any]
    objectives: Sequence[Mapping[str, Any]]


def read_scoring(
    spec: EvolveSpec, task_paths: Sequence[Path], beside: Path, mistakes: Mistakes
) -> Scoring:
    """Read what candidates are tested on.

    Args:
        spec: As it is written.
        task_paths: Folders with task files of the user's, the later looked at first.
        beside: Where the study file is to lie.
        mistakes: Where to note what is wrong, and what has no equal.
    """
    _say_settings(spec, mistakes)
    names: dict[str, str] = {}
    tasks: dict[str, Any] = {}
    for one in spec.tasks:
        if one.name in names:
            continue
        names[one.name] = key = _key(one.name, tasks)
        include = _include(one.name, task_paths, beside)
        tasks[key] = {
            **({} if key == one.name else {"task": one.name}),
            **({} if include is None else {"include": include}),
            "metric": _metric(one.metric),
            **_settings(spec),
        }
    return Scoring(tasks, _objectives(spec.tasks, names, mistakes))


def _settings(spec: EvolveSpec) -> dict[str, Any]:
    shots = {} if spec.num_fewshot is None else {"num_fewshot": spec.num_fewshot}
    limit = {} if spec.limit is None else {"items": {"limit": 2 * spec.limit}}
    chat = {"apply_chat_template": True} if spec.apply_chat_template else {}
    return {**shots, **chat, **limit}


def _say_settings(spec: EvolveSpec, mistakes: Mistakes) -> None:
    if spec.limit is not None:
        mistakes.warn(
            "limit",
            f"is {2 * spec.limit} here: half of the items of a task are searched on, "
            f"about {spec.limit}, and as many are held out for the report. They are "
            "picked by a hash; lm-eval takes the first ones.",
        )
    else:
        mistakes.warn(
            "tasks",
            "are searched on with half of their items here; the other half is held "
            "out for the report. mergekit-evolve searches on all and holds out none.",
        )
    if spec.shuffle:
        mistakes.warn(
            "shuffle",
            "has no equal: every candidate is scored on the same items. mergekit-"
            "evolve shuffles anew for each, so that scores cannot be compared.",
        )
    if spec.random_init:
        mistakes.warn(
            "random_init",
            "has no equal: the search begins at equal weights and density 1. "
            "`start` in the study file adds points of your own.",
        )
    if spec.apply_chat_template and not spec.fewshot_as_multiturn:
        mistakes.warn(
            "fewshot_as_multiturn",
            "has no equal: with a chat template, examples are turns of the chat here.",
        )


def _metric(written: str) -> str:
    return written.strip().removesuffix(",none")


def _key(name: str, taken: Mapping[str, Any]) -> str:
    """Make a task's name in the study from its name in lm-eval."""
    stem = re.sub(r"[^A-Za-z0-9_-]+", "_", name).strip("_-")[:56] or "task"
    if not stem[0].isalpha() or stem in SOURCES:
        stem = f"t_{stem}"
    key, count = stem, 1
    while key in taken:
        count += 1
        key = f"{stem}_{count}"
    return key


def _include(name: str, paths: Sequence[Path], beside: Path) -> str | None:
    """Return the folder of the user's that has a task of this name."""
    said = re.compile(rf"^(task|group): *[\"']?{re.escape(name)}[\"']? *(#.*)?$", re.M)
    for root in reversed(paths):
        for file in sorted(root.rglob("*.yaml")):
            if not file.is_file() or file.stat().st_size > _MOST_FILE_BYTES:
                continue
            if said.search(file.read_text(encoding="utf-8", errors="replace")):
                return os.path.relpath(root.absolute(), beside.absolute())
    return None


def _objectives(
    tasks: Sequence[EvolveTaskSpec], names: Mapping[str, str], mistakes: Mistakes
) -> list[dict[str, Any]]:
    sums: dict[str, float] = {}
    for i, one in enumerate(tasks):
        measure = f"{names[one.name]}/{_metric(one.metric)}"
        sums[measure] = sums.get(measure, 0.0) + one.weight
        if one.weight == 0.0:
            mistakes.warn(f"tasks.{i}.weight", "is 0: scored, and no objective.")
    gains = {m: w for m, w in sums.items() if w > 0}
    losses = {m: -w for m, w in sums.items() if w < 0}
    if not gains and not losses:
        mistakes.add("tasks", "expected a task, with a weight that is not 0, got none.")
    if gains and losses:
        mistakes.warn(
            "tasks",
            "differ: those of negative weight are an objective of their own here, "
            "minimised, and the result is a front. mergekit-evolve subtracts them.",
        )
    if len(sums) > 1 or set(sums.values()) != {1.0}:
        mistakes.warn(
            "tasks",
            "are weighed in a mean here, in a sum by mergekit-evolve: other numbers in "
            "the same order.",
        )
    out = []
    if gains:
        out.append({"name": "score", "direction": "maximize", "mean_of": gains})
    if losses:
        out.append({"name": "loss", "direction": "minimize", "mean_of": losses})
    return out
