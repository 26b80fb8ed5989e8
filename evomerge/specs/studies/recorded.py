"""Read parts of a recorded study without touching its sources."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from evomerge.core.study import Constraint, Objective
from evomerge.specs.completing.measures import Measured
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.reading.validation import validate
from evomerge.specs.schema.study import StudySpec


def goals(
    config: Mapping[str, Any],
) -> tuple[tuple[Objective, ...], tuple[Constraint, ...]]:
    """Return the objectives and constraints of a recorded configuration.

    Raises:
        SpecError: The configuration cannot be read.
        KeyError: A part of it is missing.
    """
    written = {
        **config["study"],
        "sources": dict(config["sources"]),
        "budget": {"trials": 1},  # not part of the configuration; any will do
    }
    mistakes = Mistakes("recorded study")
    spec, problems = validate(StudySpec, written, mistakes.file)
    for problem in problems:
        mistakes.found.append(problem)
    mistakes.stop_if_any()
    assert spec is not None
    measured = Measured(spec, mistakes)
    constraints = measured.constraints(spec, list(config["baselines"]))
    mistakes.stop_if_any()
    return measured.objectives, constraints
