"""A study rebuilt from what the database kept of it, with no file at hand."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evomerge.core.recipes.recipe import VERSIONS, Recipe
from evomerge.errors import Problem, SpecError
from evomerge.specs.completing.context import Surroundings
from evomerge.specs.completing.resolve import resolve_at
from evomerge.specs.completing.stage import Stage
from evomerge.specs.persistence import (
    LATER,
    VERSION,
    cut_of,
    diff,
    groups_from,
    recipe_version_of,
)
from evomerge.specs.reading.mistakes import validate
from evomerge.specs.resolved import ResolvedStudy
from evomerge.specs.schema.measures import CUTS
from evomerge.specs.schema.study import StudySpec


def restore(
    config: Mapping[str, Any],
    allowance: Mapping[str, Any],
    *,
    cache_dir: str | Path | None = None,
) -> ResolvedStudy:
    """Rebuild a study from what the database stored.

    Args:
        config: As ``ResolvedStudy.config``.
        allowance: As ``ResolvedStudy.allowance``, perhaps with another budget, other
            workers, paths or placement.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.

    Raises:
        SpecError: A source is gone or has changed, the allowance is wrong, or this
            version of evomerge reads the configuration otherwise.
    """
    file = str(allowance.get("file", "study"))
    for what, got, known in (
        ("a configuration", config.get("version"), (VERSION,)),
        ("recipes", recipe_version_of(config), VERSIONS),
        ("a cut into blocks", cut_of(config), tuple(CUTS)),
    ):
        if got not in known:
            wanted = " or ".join(str(version) for version in known)
            raise SpecError(
                [
                    Problem(
                        file,
                        f"expected {what} of version {wanted}, got {got!r}; "
                        "resume with the evomerge that wrote it.",
                    )
                ]
            )
    try:
        said = written(config, allowance)
        around = Surroundings(
            Path.cwd(),
            file,
            None if cache_dir is None else Path(cache_dir),
            {n: Recipe.from_json(r) for n, r in config["recipes"].items()},
            stage=Stage.from_json(config["stage"]) if "stage" in config else None,
            accepted=True,
            later=tuple(allowance.get(LATER, ())),
            recipe_version=recipe_version_of(config),
            cut=cut_of(config),
            surveyed=groups_from(config),
        )
    except (LookupError, TypeError, ValueError, AttributeError) as error:
        problem = (
            f"what the database keeps of the study cannot be read ({error!r}); restore "
            "the database from a copy."
        )
        raise SpecError([Problem(file, problem)]) from error
    spec, problems = validate(StudySpec, said, file)
    if spec is None or problems:
        raise SpecError(problems)
    study = resolve_at(spec, around)
    changes = diff(config, study.config)
    if changes:
        raise SpecError(
            Problem(
                file,
                f"{change}; the study began with the former. Restore it, or begin a "
                "new study.",
            )
            for change in changes
        )
    return study


def written(config: Mapping[str, Any], allowance: Mapping[str, Any]) -> dict[str, Any]:
    """Put both halves of a study together into what a file would say."""
    study: dict[str, Any] = json.loads(json.dumps(config["study"]))
    study["sources"] = dict(allowance["sources"])
    study["statistics"] = dict(allowance.get("statistics", {}))
    study["budget"] = {k: v for k, v in allowance["budget"].items() if v is not None}
    study["workers"] = allowance["workers"]
    study["timeout_s"] = allowance["timeout_s"]
    if "start_patience_s" in allowance:  # not in those of earlier versions
        study["start_patience_s"] = allowance["start_patience_s"]
    study["engine"] |= allowance["engine"]
    for start in study["start"]:
        if "study" not in start and start["name"] in config["recipes"]:
            start["recipe"] = "kept with the study"  # never opened
    for name, folder in allowance["includes"].items():
        study["tasks"][name]["include"] = folder
    return study
