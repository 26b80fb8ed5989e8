"""What can still be checked of a study file whose form is wrong.

Mistakes of form and mistakes of names are to be told in one round. What is malformed is
left out, or something stands in for it, and the rest is looked at; what then would be
found because of that is not said.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from evomerge.errors import Problem
from evomerge.specs.reading.validation import salvaged, validate
from evomerge.specs.schema.study import StudySpec

_STAND_INS: Mapping[str, Any] = {
    "sources": {"base": "."},
    "space": {"operator": "linear", "knobs": {"weight": "search"}},
    "budget": {"trials": 1},
}
_OF_SOURCES = ("frame", "vocabulary", "space", "start", "baselines", "constraints")
_FOLLOWING = {
    "sources": _OF_SOURCES,
    "take": _OF_SOURCES,
    "space": ("start", "baselines"),
    "evaluators": ("tasks", "objectives", "constraints"),
    "objectives": ("constraints", "strategy"),
    "baselines": ("constraints",),
    "start": ("constraints",),
}
"""Section to those in which its mistakes would be met again."""


def read_study(
    data: Mapping[str, Any], file: str
) -> tuple[StudySpec | None, list[Problem], tuple[str, ...]]:
    """Read a study as far as possible.

    Returns:
        The study, every mistake of form, and the keys that nothing more is to be said
        of.
    """
    spec, problems = validate(StudySpec, data, file)
    if spec is None:
        spec = salvaged(StudySpec, _searching(data, problems), _STAND_INS)
    return spec, problems, muted_by(keys_of(problems, file))


def keys_of(problems: Iterable[Problem], file: str) -> list[str]:
    """Return the keys at which something is wrong.

    Unknown keys change nothing, but for a misspelt metric, which is missing then.
    """
    found = []
    for problem in problems:
        key = problem.where.removeprefix(f"{file}: ")
        if not problem.message.startswith("unknown key"):
            found.append(key)
        elif problem.message.endswith("did you mean 'metric'?"):
            found.append(f"{key.rpartition('.')[0]}.metric")
    return found


def muted_by(keys: Iterable[str]) -> tuple[str, ...]:
    """Return the keys that nothing more is to be said of, for those that are wrong."""
    muted = set()
    for key in keys:
        section, _, below = key.partition(".")
        if section != "tasks":
            muted |= {section, *_FOLLOWING.get(section, ())}
            continue
        name, _, part = below.partition(".")
        muted.add(f"tasks.{name}")
        if part in ("", "metric"):
            muted |= {"objectives", "constraints"}
    return tuple(sorted(muted))


def _searching(data: Mapping[str, Any], problems: Iterable[Problem]) -> dict[str, Any]:
    """Leave knobs open that are malformed, so that there is a space to judge by."""
    space = data.get("space")
    knobs = space.get("knobs") if isinstance(space, Mapping) else None
    if not isinstance(space, Mapping) or not isinstance(knobs, Mapping):
        return dict(data)
    wrong = [problem.where.partition(": ")[2].split(".") for problem in problems]
    bad = {path[2] for path in wrong if path[:2] == ["space", "knobs"] and path[2:]}
    opened = {k: "search" if str(k) in bad else knob for k, knob in knobs.items()}
    return {**data, "space": {**space, "knobs": opened}}
