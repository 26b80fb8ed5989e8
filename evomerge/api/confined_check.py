"""Resolve a study file that a stranger wrote: a process of its own, walled in.

``python -P -m evomerge.api.confined_check`` reads one JSON request and answers in lines
of JSON, each with more than the one before: when the file is read, and when its sources
are. So whoever waits for the second not to come has the first.
"""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from evomerge.core.policy import Policy, confined
from evomerge.errors import EvomergeError, NotInstalledError, Problem, SpecError
from evomerge.sandbox import Limits, limit, wall_in

MOST_TOLD = 200
"""Mistakes and warnings told at most."""
LONGEST = 2000
"""Characters of one of them."""
UNMADE = "tasks are looked at where workers run: lm-eval is not installed here"


def main() -> None:
    """Answer the request on the standard input.

    It has ``study``, a file; ``cache``, a folder; ``writable``, those it may write in;
    ``policy``, as ``Policy.from_json`` takes it, or None for a study of one's own; and
    ``limits``, those of ``Limits``.
    """
    request = json.loads(sys.stdin.buffer.read())
    study, cache = Path(request["study"]), Path(request["cache"])
    limit(Limits(**request["limits"]))
    policy = None
    if request["policy"] is not None:
        policy = Policy.from_json(request["policy"]).with_roots(study.parent)
        readable, writable = map(Path, policy.roots), map(Path, request["writable"])
        wall_in(readable, writable, network=policy.hub)
    with confined(policy):
        _look(study, cache)


def _look(file: Path, cache: Path) -> None:
    from evomerge.scoring.survey import Surveyor
    from evomerge.specs.studies.study_file import load_parts, read_studies
    from evomerge.strategies.registry import problems

    has_tasks = importlib.util.find_spec("lm_eval") is not None
    survey = Surveyor(cache) if has_tasks else None
    warnings = [] if has_tasks else [UNMADE]
    name = None
    try:
        part, *_ = load_parts(file, judge=problems, survey=survey)
        name = part.spec.name if part.stage is None else part.stage.study
        _tell(name, (), [*warnings, "its sources were not read in time"])
        studies = read_studies(file, cache_dir=cache, judge=problems, survey=survey)
        warnings += [str(one) for study in studies for one in study.warnings]
        _tell(name, (), warnings)
    except SpecError as error:
        _tell(name, error.problems, warnings)
    except NotInstalledError as error:
        _tell(name, (), [*warnings, str(error)])
    except EvomergeError as error:
        _tell(name, [Problem(file.name, str(error))], warnings)


def _tell(
    study: str | None, problems: Sequence[Problem], warnings: Sequence[str]
) -> None:
    answer: dict[str, Any] = {
        "study": study,
        "problems": [_short(problem) for problem in problems[:MOST_TOLD]],
        "warnings": [text[:LONGEST] for text in dict.fromkeys(warnings)][:MOST_TOLD],
    }
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def _short(problem: Problem) -> dict[str, Any]:
    return {
        k: v[:LONGEST] if isinstance(v, str) else v for k, v in asdict(problem).items()
    }


if __name__ == "__main__":
    main()
