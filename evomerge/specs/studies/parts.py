"""The searches of a study file: one, or with ``stages:`` one for each.

Mistakes of form and mistakes of names are to be told in one round. What is malformed is
left out, or something stands in for it, and the rest is looked at; what then would be
found because of that is not said.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pydantic import Field

from evomerge.core.flow.blueprint import MERGE
from evomerge.core.nearest import did_you_mean
from evomerge.errors import Problem
from evomerge.specs.completing.measures import Measured
from evomerge.specs.completing.stage import Part, Stage, Take
from evomerge.specs.reading.mistakes import Mistakes, salvaged, validate
from evomerge.specs.reading.spec import Spec
from evomerge.specs.schema.study import StageSpec, StudySpec, TakeSpec

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


def read_search(
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


LONGEST_NAME = 64
"""Characters of a study's name, its stage included."""
_OWN = (StageSpec.model_fields.keys() & StudySpec.model_fields.keys()) - {"name"}
"""Keys that a stage may give itself."""


class _Stages(Spec):
    """The part of a file that tells stages."""

    stages: tuple[StageSpec, ...] = Field(min_length=1, description="The stages.")


def read_stages(data: Mapping[str, Any], mistakes: Mistakes) -> tuple[Part, ...]:
    """Read a file with stages, as far as nothing is wrong with it.

    Args:
        data: The file, its evaluators taken over.
        mistakes: Where to note what is wrong.
    """
    rows = data["stages"]
    written, problems = validate(_Stages, {"stages": rows}, mistakes.file)
    mistakes.found += problems
    written = written or salvaged(_Stages, {"stages": rows}, {})
    if written is None or len(written.stages) != len(rows):
        return ()
    wrong = keys_of(problems, mistakes.file)
    top = {key: value for key, value in data.items() if key != "stages"}
    own = [{key for key in _OWN if row.get(key) is not None} for row in rows]
    _note_useless(top, own, mistakes)
    parts: list[Part] = []
    for number, (row, stage) in enumerate(zip(rows, written.stages, strict=True)):
        places = {key: f"stages.{number}.{key}" for key in {*own[number], "take"}}
        both = {**top, **{key: row[key] for key in own[number]}}
        both["name"] = f"{top['name']}.{stage.name}"
        spec, muted = _read_part(both, number, places, mistakes)
        if spec is None:
            continue
        about = Stage(str(top["name"]), stage.name, number, _takes(stage.take))
        here = f"stages.{number}."
        own_wrong = [k.removeprefix(here) for k in wrong if k.startswith(here)]
        part = Part(spec, about, places, muted=(*muted, *muted_by(own_wrong)))
        _check(stage, part, parts, written.stages, mistakes)
        parts.append(part)
    return tuple(parts)


def _note_useless(
    top: Mapping[str, Any], own: Sequence[set[str]], mistakes: Mistakes
) -> None:
    for key in top:
        if key in _OWN and all(key in keys for keys in own):
            mistakes.add(key, "expected no such key: every stage gives its own.")


def _read_part(
    data: Mapping[str, Any],
    number: int,
    places: Mapping[str, str],
    mistakes: Mistakes,
) -> tuple[StudySpec | None, tuple[str, ...]]:
    spec, problems, muted = read_search(data, mistakes.file)
    for problem in problems:
        key = problem.where.removeprefix(mistakes.file).removeprefix(": ")
        first = key.partition(".")[0]
        if first in places:
            continue  # noted where the stage says it
        if first == "name":
            key = f"stages.{number}.name"
            mistakes.add(
                key,
                f"expected a name of at most {LONGEST_NAME} characters that begins "
                f"with a letter or digit, got {data['name']!r}.",
            )
        elif key in _OWN and key not in data:
            mistakes.add(
                f"stages.{number}.{key}",
                "expected this key, here or at the top of the file for all stages.",
            )
        elif problem.where not in {noted.where for noted in mistakes.found}:
            mistakes.found.append(problem)
    return spec, muted


def _takes(written: Mapping[str, TakeSpec]) -> dict[str, Take]:
    return {
        name: take
        for under, spec in written.items()
        for name, take in _taken_under(under, spec)
    }


def _taken_under(name: str, spec: TakeSpec) -> Iterator[tuple[str, Take]]:
    if spec.front is None:
        yield name, Take(spec.stage, spec.best)
        return
    for place in range(spec.front):
        yield f"{name}{place + 1}", Take(spec.stage, place=place)


def _check(
    stage: StageSpec,
    part: Part,
    earlier: Sequence[Part],
    every: Sequence[StageSpec],
    mistakes: Mistakes,
) -> None:
    """Note what does not go together with the other stages."""
    assert part.stage is not None
    here = f"stages.{part.stage.number}"
    before = {p.stage.name: p for p in earlier if p.stage is not None}
    if stage.name in before:
        mistakes.add(
            f"{here}.name", f"expected another name, got {stage.name!r} twice."
        )
    seen: set[str] = set()
    for under, spec in stage.take.items():
        key = f"{here}.take.{under}"
        _check_origin(spec, key, before, [one.name for one in every], mistakes)
        for name, _ in _taken_under(under, spec):
            if name in part.spec.sources or name == MERGE:
                what = "what the operator makes" if name == MERGE else "a source"
                mistakes.add(key, f"expected another name: {name!r} is {what}.")
            if name in seen:
                mistakes.add(key, f"expected each name once, got {name!r} twice.")
            seen.add(name)
            if not _is_used(part.spec, name):
                mistakes.add(
                    key,
                    f"expected a use of {name!r}, but the space of this stage names "
                    "other sources; add it to them, or take nothing.",
                )


def _check_origin(
    spec: TakeSpec,
    key: str,
    before: Mapping[str, Part],
    every: Sequence[str],
    mistakes: Mistakes,
) -> None:
    origin = before.get(spec.stage)
    if origin is None:
        if spec.stage in every:
            says = f"expected a stage before this one, got {spec.stage!r}."
        else:
            hint = did_you_mean(spec.stage, list(before))
            says = f"unknown stage {spec.stage!r}{hint}"
        mistakes.add(key, says)
        return
    names = [o.name for o in Measured(origin.spec, Mistakes("")).objectives]
    if spec.best is not None and spec.best not in names:
        mistakes.add(
            f"{key}.best",
            f"unknown objective {spec.best!r} of stage {spec.stage!r}"
            f"{did_you_mean(spec.best, names)}",
        )
    flow = origin.spec.space.flow
    if flow is not None and flow.scales != "none" and not flow.export:
        mistakes.add(
            key,
            f"expected a stage whose stacks can be written down: {spec.stage!r} has "
            "scales and says `export: false`.",
        )


def _is_used(spec: StudySpec, name: str) -> bool:
    """Tell whether a space names a source, or leaves all sources in."""
    space, flow = spec.space, spec.space.flow
    is_merged = space.base == name or not space.experts or name in space.experts
    if flow is None:
        return is_merged
    if name in {*flow.sources, *flow.embed, *flow.head}:
        return True
    return is_merged and (bool(space.operator) or not flow.sources)
