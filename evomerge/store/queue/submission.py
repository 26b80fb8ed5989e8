"""What a user asks for: a job to be queued, and more budget for one there is."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from evomerge.errors import Problem, SpecError
from evomerge.store.queue.bundle import Bundle, differences
from evomerge.store.queue.values import Job

PRIORITIES = range(-10, 11)
MAX_WORKERS = 10_000
BUDGETS = ("trials", "items", "minutes")

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}")
_ABSENT = "not given"


@dataclass(frozen=True)
class Submission:
    """A job to be queued.

    Attributes:
        name: Of the job, unique among its user's.
        study: Name of the study that the study file describes, unique in the database:
            whoever submits has read the file.
        bundle: The files.
        priority: From -10 to 10; the higher goes first among one user's jobs.
        place: ``workers``: how many, else what the study file says.

    Raises:
        SpecError: A value is not what is expected; says each.
    """

    name: str
    study: str
    bundle: Bundle
    priority: int = 0
    place: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        problems = [
            *name_problems("name", self.name),
            *name_problems("study", self.study),
            *priority_problems(self.priority),
            *place_problems(self.place),
        ]
        if problems:
            raise SpecError(problems)

    @property
    def slots(self) -> int:
        """What the job takes of its user's share."""
        return int(self.place.get("workers", 1))

    def differs_from(self, job: Job, bundle: Bundle) -> list[Problem]:
        """Return how it differs from a job that there is."""
        there = {"study": job.study, "priority": job.priority, **job.place}
        here = {"study": self.study, "priority": self.priority, **self.place}
        problems = differences(bundle, self.bundle)
        for key in sorted({*there, *here}):
            before, now = there.get(key, _ABSENT), here.get(key, _ABSENT)
            if before != now:
                said = f"is {before!r} there, {now!r} here"
                if key == "workers":
                    said += f"; change it with: evomerge scale {job.name} WORKERS"
                problems.append(Problem(key, said))
        return problems


def name_problems(what: str, name: str) -> list[Problem]:
    """Refuse a name of a user, token, job or study that no folder could have."""
    if _NAME.fullmatch(name):
        return []
    said = (
        "expected letters, digits, '_', '.' and '-', at most 64 of them, a letter or "
    )
    return [Problem(what, f"{said}digit first, got {name!r:.80}")]


def priority_problems(priority: int) -> list[Problem]:
    """Refuse a priority out of bounds."""
    if type(priority) is int and priority in PRIORITIES:
        return []
    bounds = f"{PRIORITIES[0]} to {PRIORITIES[-1]}"
    said = f"expected a number from {bounds}, got {priority!r:.80}"
    return [Problem("priority", said)]


def place_problems(place: Mapping[str, Any]) -> list[Problem]:
    """Refuse a place that there cannot be."""
    problems = []
    for key, value in place.items():
        if key != "workers":
            said = "is not known; expected 'workers'"
        elif type(value) is not int or not 1 <= value <= MAX_WORKERS:
            said = f"expected a number from 1 to {MAX_WORKERS}, got {value!r:.80}"
        else:
            continue
        problems.append(Problem(f"place.{key}", said))
    return problems


def budget_problems(
    before: Mapping[str, float], new: Mapping[str, Any]
) -> list[Problem]:
    """Refuse a budget that is none, or smaller than what was granted before."""
    problems = []
    for key, value in new.items():
        if key not in BUDGETS:
            said = f"is not known; expected one of {', '.join(BUDGETS)}"
        elif isinstance(value, bool) or not isinstance(value, int | float):
            said = f"expected a number, got {value!r:.80}"
        elif not 0 < value < math.inf or (key != "minutes" and value != int(value)):
            kind = "number" if key == "minutes" else "whole number"
            said = f"expected a {kind} above 0, got {value!r:.80}"
        elif value < before.get(key, 0):
            said = f"expected at least the {before[key]} that it has, got {value}"
        else:
            continue
        problems.append(Problem(f"budget.{key}", said))
    return problems
