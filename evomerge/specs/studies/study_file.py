"""A study file, read and checked as far as it goes without its sources."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import yaml

from evomerge.core.nearest import did_you_mean
from evomerge.core.policy import in_force
from evomerge.core.recipes.recipe import VERSION
from evomerge.core.survey import Survey
from evomerge.errors import Problem, SpecError
from evomerge.masking import names_a_secret
from evomerge.specs.completing.context import Finder, Judge
from evomerge.specs.completing.measures import tasks_of
from evomerge.specs.completing.resolve import check_names
from evomerge.specs.completing.stage import Part
from evomerge.specs.mergekit import other_file
from evomerge.specs.permitted import OnDisk, refusals
from evomerge.specs.reading.lines import Document, Lines, placed, placing
from evomerge.specs.reading.mistakes import Mistakes, validate
from evomerge.specs.reading.yamlfile import read_yaml
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.schema.measures import CUT, EvaluatorsSpec
from evomerge.specs.schema.study import StudySpec
from evomerge.specs.sources import missing, source_folder
from evomerge.specs.studies.chain import resolve_parts
from evomerge.specs.studies.parts import read_search, read_stages
from evomerge.specs.studies.warm_starts import take_starts

Written = str | Path | Mapping[str, Any]
"""A study file, or what would stand in one, its paths relative to this folder."""


def load_study(path: str | Path) -> StudySpec:
    """Read a study file without stages; see ``load_parts``.

    Raises:
        SpecError: Carries every mistake found, or the study has stages.
    """
    file = Path(path)
    part, *others = load_parts(file)
    if others or part.stage is not None:
        raise SpecError(
            [Problem(f"{file.name}: stages", "expected a study of one search here.")]
        )
    return part.spec


def load_parts(
    path: str | Path, *, judge: Judge | None = None, survey: Survey | None = None
) -> tuple[Part, ...]:
    """Read a study file, with the evaluator files it names.

    Everything that can be checked without a source is: unknown keys, names that nothing
    bears, values out of range. Sources need not exist; where anything else is wrong,
    missing ones are reported with it.

    Args:
        path: The study file.
        judge: Says what is wrong with a choice of strategy.
        survey: Finds out about the tasks; without it they are taken as written.

    Returns:
        Its stages, or the one search there is; their evaluators' tasks are among their
        own and the folders of these absolute.

    Raises:
        SpecError: Carries every mistake found.
    """
    file = Path(path)
    data = read_yaml(file)
    with placing(data):
        return _parts_of(data, file, judge, survey)


def _parts_of(
    data: Document,
    file: Path,
    judge: Judge | None,
    survey: Survey | None,
    finder: Finder | None = None,
) -> tuple[Part, ...]:
    mistakes = Mistakes(file.name)
    if said := other_file(data):
        mistakes.add("", said)
        mistakes.stop_if_any()
    if (policy := in_force()) is not None:
        mistakes.found += refusals(data, OnDisk(policy, file.parent))
        mistakes.stop_if_any()  # nothing that it names is looked at
    data.setdefault("name", file.stem)
    _refuse_secrets(data, "", mistakes)
    _take_evaluators(data, file.parent, mistakes)
    recipes = {} if finder is None else take_starts(data, finder, mistakes)
    parts = tuple(
        replace(_looked_at(part, survey), recipes=recipes.get(part.spec.name, {}))
        for part in _parts(data, mistakes)
    )
    for part in parts:
        noted = part.mistakes(file.name)
        noted.found = mistakes.found
        for problem in part.surveyed.problems:
            noted.add(f"tasks.{problem.where}", problem.message)
        check_names(part, noted, judge)
        _note_missing_recipes(part.spec, file.parent, noted)
    if mistakes.found:
        _note_missing_sources(data.get("sources"), file.parent, mistakes)
        raise SpecError(mistakes.found)
    return parts


def _refuse_secrets(data: Any, key: str, mistakes: Mistakes) -> None:
    """Note every secret: a study is kept in the database as it is written."""
    if isinstance(data, list):
        data = dict(enumerate(data))
    if not isinstance(data, dict):
        return
    for name, value in data.items():
        here = f"{key}.{name}" if key else str(name)
        if isinstance(value, str) and names_a_secret(str(name)):
            mistakes.add(
                here,
                "expected no secret: a study is kept in its database, where others "
                "read it. Set an environment variable where workers run, such as "
                "HF_TOKEN.",
            )
        _refuse_secrets(value, here, mistakes)


def _parts(data: Mapping[str, Any], mistakes: Mistakes) -> tuple[Part, ...]:
    if "stages" in data:
        return read_stages(data, mistakes)
    spec, problems, muted = read_search(data, mistakes.file)
    mistakes.found += problems
    return () if spec is None else (Part(spec, muted=muted),)


def _looked_at(part: Part, survey: Survey | None) -> Part:
    """Find out about the tasks of a part, those that are whole."""
    if survey is None:
        return part
    whole = [t for t in tasks_of(part.spec) if f"tasks.{t.name}" not in part.muted]
    return replace(part, surveyed=survey(whole))


def read_study(
    path: str | Path,
    *,
    cache_dir: str | Path | None = None,
    judge: Judge | None = None,
    survey: Survey | None = None,
) -> ResolvedStudy:
    """Read a study file and answer every question it leaves open.

    Args:
        path: The study file.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        judge: See ``resolve``.
        survey: See ``load_parts``.

    Returns:
        The study, or its first stage, which knows of those to come.

    Raises:
        SpecError: Carries every mistake found.
    """
    first, *_ = read_studies(path, cache_dir=cache_dir, judge=judge, survey=survey)
    return first


def read_studies(
    written: Written,
    *,
    cache_dir: str | Path | None = None,
    judge: Judge | None = None,
    versions: tuple[int, int] = (VERSION, CUT),
    survey: Survey | None = None,
    finder: Finder | None = None,
) -> tuple[ResolvedStudy, ...]:
    """Read a study and return all of its stages; see ``resolve_parts``.

    Args:
        written: The study file, or what would stand in one.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        judge: See ``resolve``.
        versions: Of the recipes that points become, and of the cut into blocks.
        survey: See ``load_parts``.
        finder: Finds what other studies found, where ``start`` asks for it; without
            it the start of the search stands in.

    Raises:
        SpecError: Carries every mistake found.
    """
    data, file = _document(written)
    with placing(data):
        studies = resolve_parts(
            _parts_of(data, file, judge, survey, finder),
            base_dir=file.parent,
            file=file.name,
            cache_dir=None if cache_dir is None else Path(cache_dir),
            judge=judge,
            versions=versions,
        )
    return tuple(
        replace(study, warnings=placed(study.warnings, [data]), lines=data.lines)
        for study in studies
    )


def _document(written: Written) -> tuple[Document, Path]:
    """Return a study as data, and the file whose folder its paths start from."""
    if not isinstance(written, Mapping):
        return read_yaml(Path(written)), Path(written)
    file = Path.cwd() / "study"
    plain = json.loads(json.dumps(dict(written), default=os.fspath))
    return Document(plain, Lines(file.name, yaml.MappingNode("", []))), file


def load_evaluators(path: str | Path) -> EvaluatorsSpec:
    """Read an evaluator file.

    Raises:
        SpecError: Carries every mistake found.
    """
    file = Path(path)
    return _evaluators_of(read_yaml(file), file)


def _evaluators_of(data: Document, file: Path) -> EvaluatorsSpec:
    with placing(data):
        spec, problems = validate(EvaluatorsSpec, data, file.name)
        if spec is None or problems:
            raise SpecError(problems)
        return spec


def _take_evaluators(data: Document, folder: Path, mistakes: Mistakes) -> None:
    """Put the tasks of every evaluator file under the study's own."""
    tasks = data.get("tasks", {})
    if not isinstance(tasks, dict):
        return
    own = {name: _rooted(task, folder) for name, task in tasks.items()}
    taken: dict[str, Any] = {}
    entries = data.get("evaluators", [])
    for i, entry in enumerate(entries if isinstance(entries, list) else []):
        wanted = entry if isinstance(entry, dict) else {"file": entry}
        if isinstance(wanted.get("file"), str):
            key = f"evaluators.{i}"
            path = folder / Path(wanted["file"]).expanduser()
            found = _tasks_of(path, data.lines, mistakes)
            only = wanted.get("only")
            for name in _chosen(found, only, f"{key}.only", mistakes):
                if name in taken:
                    mistakes.add(
                        key, f"expected every task once, got {name!r} from two files."
                    )
                taken[name] = found[name]
    if taken or own:
        data["tasks"] = {
            name: _overlaid(taken.get(name, {}), own.get(name, {}))
            for name in {**taken, **own}
        }


def _tasks_of(file: Path, lines: Lines, mistakes: Mistakes) -> dict[str, Any]:
    """Return the tasks of one evaluator file as plain data, folders absolute."""
    try:
        data = read_yaml(file)
        spec = _evaluators_of(data, file)
    except SpecError as error:
        for problem in error.problems:
            if problem not in mistakes.found:
                mistakes.found.append(problem)
        return {}
    lines.take(data.lines, {"tasks"})
    plain = spec.model_dump(mode="json", exclude_unset=True)["tasks"]
    return {name: _rooted(task, file.parent) for name, task in plain.items()}


def _chosen(
    found: Mapping[str, Any], only: Any, key: str, mistakes: Mistakes
) -> list[str]:
    if not isinstance(only, list):
        return list(found)
    names = [name for name in only if isinstance(name, str)]  # models judge the rest
    for name in names:
        if found and name not in found:
            mistakes.add(key, f"unknown task {name!r}{did_you_mean(name, list(found))}")
    return [name for name in names if name in found]


def _rooted(task: Any, folder: Path) -> Any:
    """Make the folder of local tasks absolute; the models judge what is malformed."""
    if not isinstance(task, dict) or not isinstance(task.get("include"), str):
        return task
    return {**task, "include": str(source_folder(task["include"], folder))}


def _overlaid(under: Any, over: Any) -> Any:
    """Lay the keys of one mapping over another, mappings within them likewise."""
    if not isinstance(under, dict) or not isinstance(over, dict):
        return over
    return {
        **under,
        **{key: _overlaid(under.get(key), value) for key, value in over.items()},
    }


def _note_missing_recipes(spec: StudySpec, folder: Path, mistakes: Mistakes) -> None:
    for i, start in enumerate(spec.start):
        if (
            start.recipe is not None
            and not (folder / start.recipe.expanduser()).is_file()
        ):
            mistakes.add(
                f"start.{i}.recipe",
                f"expected a recipe file, got {str(start.recipe)!r}, which does not "
                "exist.",
            )


def _note_missing_sources(sources: Any, folder: Path, mistakes: Mistakes) -> None:
    if not isinstance(sources, dict):
        return
    for name, written in sources.items():
        said = missing(written, folder) if isinstance(written, str) else None
        if said is not None:
            mistakes.add(f"sources.{name}", said)
