"""Every key a file may hold, found by walking its model.

The walk serves suggestions for misspelt keys, and the test that no key is missing from
the documentation.
"""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin

from evomerge.specs.reading.spec import Spec

ANY = "*"
"""Stands for a name the user chooses, or a place in a list."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a file.

    Attributes:
        path: Its place, outermost first.
        help: What it means, in one or two sentences.
    """

    path: tuple[str, ...]
    help: str

    @property
    def dotted(self) -> str:
        """The place as it is written in messages and documents."""
        return ".".join(self.path)


@lru_cache
def all_keys(model: type[Spec]) -> tuple[Key, ...]:
    """Return every key below a model, parents before children."""
    return tuple(_of_model(model, ()))


def siblings(model: type[Spec], path: Sequence[str]) -> list[str]:
    """Return the keys that may stand where ``path`` points to."""
    return [
        key.path[-1]
        for key in all_keys(model)
        if key.path[-1] != ANY
        and len(key.path) == len(path)
        and all(
            known in (ANY, given)
            for known, given in zip(key.path[:-1], path[:-1], strict=True)
        )
    ]


def _of_model(model: type[Spec], path: tuple[str, ...]) -> Iterator[Key]:
    for name, field in model.model_fields.items():
        here = (*path, name)
        yield Key(here, field.description or "")
        yield from _of_type(field.annotation, here)


def _of_type(annotation: Any, path: tuple[str, ...]) -> Iterator[Key]:
    origin = get_origin(annotation)
    if origin is Annotated:
        yield from _of_type(get_args(annotation)[0], path)
    elif origin in (Union, types.UnionType):
        for part in get_args(annotation):
            yield from _of_type(part, path)
    elif origin is dict:
        yield from _of_type(get_args(annotation)[1], (*path, ANY))
    elif origin is tuple:
        yield from _of_type(get_args(annotation)[0], (*path, ANY))
    elif isinstance(annotation, type) and issubclass(annotation, Spec):
        yield from _of_model(annotation, path)
