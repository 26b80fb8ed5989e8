"""Rows of a study and its job, as a service tells them, without any of it at work."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from evomerge.client.verbs import WorkerRow
from evomerge.service.page.view import Study
from evomerge.store.queue.values import Job, JobState, Wanted

BEGAN = "2026-11-30T12:00:00.250+00:00"


def job(name: str = "small", state: JobState = JobState.RUNNING, **changes: Any) -> Job:
    """Return a job of ann's."""
    chosen: dict[str, Any] = {
        "id": 7,
        "user": "ann",
        "name": name,
        "study": name,
        "bundle_digest": "0" * 64,
        "state": state,
        "wanted": Wanted.RUN,
        "priority": 0,
        "budget": {},
        "place": {"workers": 2},
        "claim_by": None,
        "due": None,
        "starts": 1,
        "fruitless": 0,
        "last_progress": 0,
        "why": None,
        "created": BEGAN,
        "changed": BEGAN,
    }
    return Job(**{**chosen, **changes})


def trial(number: int, **changes: Any) -> dict[str, Any]:
    """Return a row of a scored trial."""
    value = (number * 7 % 11) / 11
    chosen: dict[str, Any] = {
        "number": number,
        "generation": number // 4,
        "state": "scored",
        "recipe": f"{number:032x}",
        "label": None,
        "point": {"a": 0.5},
        "values": {"math": value, "code": 1 - value**2},
        "scores": {"math/acc": value},
        "attempt": 1,
        "faults": 0,
        "worker": "worker-1",
        "seconds": {"swap": 0.5, "score": 2.0},
        "reused": False,
        "failure": None,
    }
    return {**chosen, **changes}


def front_row(
    number: int, values: Mapping[str, float], **changes: Any
) -> dict[str, Any]:
    """Return a row of the front; every objective is better when it is larger."""
    chosen: dict[str, Any] = {
        "number": number,
        "label": None,
        "recipe": f"{number:032x}",
        "values": dict(values),
        "scores": {},
        "directions": dict.fromkeys(values, "maximize"),
    }
    return {**chosen, **changes}


def attempt(number: int, **changes: Any) -> dict[str, Any]:
    """Return a row of an attempt that a machine spoilt."""
    chosen = {
        "trial": number,
        "attempt": 1,
        "worker": "worker-2",
        "began": BEGAN,
        "ended": BEGAN,
        "end": "fault",
        "failure": "worker lost: its machine was lost",
    }
    return {**chosen, **changes}


def study(trials: Sequence[Mapping[str, Any]] = (), **changes: Any) -> Study:
    """Return what is told of a study with these trials."""
    rows = list(trials)
    best = max(rows, key=lambda row: row["values"]["math"]) if rows else None
    front = [] if best is None else [front_row(best["number"], best["values"])]
    status = {
        "used": f"{len(rows)} trials",
        "trials": len(rows),
        "allowed": 40,
        "faults": 0,
        "best": [
            {
                "objective": "math",
                "value": row["values"]["math"],
                "trial": row["number"],
            }
            for row in front
        ],
    }
    chosen: dict[str, Any] = {"status": status, "front": front, "trials": rows}
    return Study(**{**chosen, **changes})


def worker(name: str = "worker-1", **changes: Any) -> WorkerRow:
    """Return a worker that is at work for the study ``small``."""
    chosen: dict[str, Any] = {
        "id": name,
        "node": "n1",
        "host": "gpu-1",
        "address": "10.0.0.1",
        "state": "busy",
        "study": "small",
        "versions": {"python": "3.11"},
        "resources": {"gpus": 1},
        "since": BEGAN,
        "seen": BEGAN,
    }
    return WorkerRow(**{**chosen, **changes})
