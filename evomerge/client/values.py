"""Values of the service as JSON, and back: what both ends of the wire agree on.

The values themselves say what their JSON is: a key a field, of the field's type.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import fields
from enum import Enum
from functools import cache
from types import UnionType
from typing import Any, TypeVar, cast, get_args, get_origin, get_type_hints

from evomerge.errors import Problem
from evomerge.store.queue.values import Job, User

_T = TypeVar("_T")
_KEYED = (Job, User)
"""What has a database key, ``id``, which is not told; those of others are names."""


@cache
def told_fields(kind: Any) -> Mapping[str, Any]:
    """Return the names and types of the fields that are told of a kind of values."""
    types = get_type_hints(kind)
    names = [field.name for field in fields(kind)]
    return {name: types[name] for name in names if name != "id" or kind not in _KEYED}


def to_json(value: Any) -> Any:
    """Return plain JSON data; database keys of jobs and users are not in it."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        found = {key: to_json(getattr(value, key)) for key in told_fields(type(value))}
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


def reader(kind: type[_T]) -> Callable[[Any], _T]:
    """Return what reads a value of a kind from JSON data, or raises ValueError.

    Further keys are a newer server's, and passed over. The ``id`` of a job or a user is
    0, as keys are not told.
    """
    types = told_fields(cast(Any, kind))  # a class is hashable, whatever mypy says

    def read(data: Any) -> _T:
        found = _mapping(data)
        values: dict[str, Any] = {"id": 0} if kind in _KEYED else {}
        for name, meant in types.items():
            if name not in found:
                raise ValueError(f"expected {name!r} in a {kind.__name__}")
            try:
                values[name] = _converted(meant, found[name])
            except (TypeError, ValueError) as error:
                raise ValueError(f"{name} of a {kind.__name__}: {error}") from error
        return kind(**values)

    return read


def _converted(meant: Any, value: Any) -> Any:
    """Make a value of a type, as it is written in a dataclass, of JSON data."""
    origin, parts = get_origin(meant), get_args(meant)
    if origin is UnionType:
        return None if value is None else _converted(parts[0], value)
    if origin is Mapping:
        return _mapping(value)
    if origin in (tuple, frozenset):
        if not isinstance(value, list):
            raise ValueError(f"expected a list, got {value!r:.80}")
        return origin(_converted(parts[0], entry) for entry in value)
    if meant is Problem:
        return _problem(value)
    if issubclass(meant, Enum):
        return meant(value)
    if not isinstance(value, int | float if meant is float else meant):
        raise ValueError(f"expected a {meant.__name__}, got {value!r:.80}")
    return value


def problems_from(data: Any) -> tuple[Problem, ...]:
    """Read mistakes; what is none is told as it is.

    Raises:
        ValueError: It is no list.
    """
    if not isinstance(data, list):
        raise ValueError(f"expected a list of problems, got {data!r:.80}")
    return tuple(map(_problem, data))


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
