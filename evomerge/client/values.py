"""Values of the service as JSON, and back: what both ends of the wire agree on."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from typing import Any, TypeVar

from evomerge.client.verbs import Checked, ExportJob, Me, WorkerRow
from evomerge.errors import Problem
from evomerge.store.queue.values import (
    ExportState,
    Job,
    JobEvent,
    JobState,
    Role,
    Scope,
    Token,
    User,
    Wanted,
)

_T = TypeVar("_T")
_OF_FIELDS: Mapping[str, Callable[[Any], Any]] = {
    "role": Role,
    "wanted": Wanted,
    "scopes": lambda words: frozenset(map(Scope, words)),
}
_HIDDEN = ("id",)
"""Database keys; those of exports and workers are names."""


def to_json(value: Any) -> Any:
    """Return plain JSON data; database keys of jobs and users are not in it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hidden = _HIDDEN if isinstance(value, Job | User) else ()
        found = {
            field.name: to_json(getattr(value, field.name))
            for field in fields(value)
            if field.name not in hidden
        }
        if isinstance(value, Job):
            found["address"] = value.address
        return found
    if isinstance(value, Mapping):
        return {str(key): to_json(entry) for key, entry in value.items()}
    if isinstance(value, frozenset | set):
        return sorted(map(to_json, value))
    if isinstance(value, list | tuple):
        return [to_json(entry) for entry in value]
    return value.value if isinstance(value, Enum) else value


def job_from(data: Any) -> Job:
    """Read a job; its ``id`` is 0, as keys are not told.

    Raises:
        ValueError: It is none.
    """
    return _read(Job, {**_mapping(data), "id": 0}, state=JobState)


def event_from(data: Any) -> JobEvent:
    """Read an event.

    Raises:
        ValueError: It is none.
    """
    return _read(JobEvent, data, number=int)


def export_from(data: Any) -> ExportJob:
    """Read an export.

    Raises:
        ValueError: It is none.
    """
    return _read(ExportJob, data, state=ExportState, id=str, bytes=int)


def worker_from(data: Any) -> WorkerRow:
    """Read a worker.

    Raises:
        ValueError: It is none.
    """
    return _read(WorkerRow, data, id=str, state=str)


def token_from(data: Any) -> Token:
    """Read what is known of a token.

    Raises:
        ValueError: It is none.
    """
    return _read(Token, data)


def user_from(data: Any) -> User:
    """Read a user; its ``id`` is 0, as keys are not told.

    Raises:
        ValueError: It is none.
    """
    return _read(User, {**_mapping(data), "id": 0})


def me_from(data: Any) -> Me:
    """Read who asks.

    Raises:
        ValueError: It is not that.
    """
    return _read(Me, data)


def checked_from(data: Any) -> Checked:
    """Read what a look at files found.

    Raises:
        ValueError: It is not that.
    """
    return _read(
        Checked,
        data,
        problems=problems_from,
        warnings=lambda said: tuple(map(str, said)),
    )


def problems_from(data: Any) -> tuple[Problem, ...]:
    """Read mistakes; what is none is told as it is.

    Raises:
        ValueError: It is no list.
    """
    if not isinstance(data, list):
        raise ValueError(f"expected a list of problems, got {data!r:.80}")
    return tuple(_problem(entry) for entry in data)


def _problem(entry: Any) -> Problem:
    if not isinstance(entry, dict):
        return Problem("?", str(entry))
    line = entry.get("line")
    return Problem(
        str(entry.get("where", "?")),
        str(entry.get("message", "?")),
        None if entry.get("file") is None else str(entry["file"]),
        line if isinstance(line, int) else None,
    )


def matches(job: Job, filters: Mapping[str, str]) -> bool:
    """Tell whether every key of a filter has, as text, the value asked for.

    Keys are the job's, as its JSON has them, with a dot into mappings:
    ``state``, ``study``, ``place.workers``.
    """
    data = to_json(job)
    return all(_text_at(data, key) == value for key, value in filters.items())


def _text_at(data: Any, key: str) -> str | None:
    for part in key.split("."):
        if not isinstance(data, dict) or part not in data:
            return None
        data = data[part]
    return None if data is None else str(data)


def _mapping(data: Any) -> Mapping[str, Any]:
    if not isinstance(data, dict):
        raise ValueError(f"expected a mapping, got {data!r:.80}")
    return data


def _read(kind: type[_T], data: Any, **read: Callable[[Any], Any]) -> _T:
    """Make a value of the keys it has; further keys are a newer server's."""
    found = _mapping(data)
    values: dict[str, Any] = {}
    for field in fields(kind):  # type: ignore[arg-type]  # a dataclass, all of them
        if field.name not in found:
            raise ValueError(f"expected {field.name!r} in a {kind.__name__}")
        convert = read.get(field.name) or _OF_FIELDS.get(field.name)
        try:
            value = found[field.name]
            values[field.name] = value if convert is None else convert(value)
        except (TypeError, ValueError) as error:
            raise ValueError(f"{field.name} of a {kind.__name__}: {error}") from error
    return kind(**values)
