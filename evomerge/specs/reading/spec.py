"""What all models of written files share, and every key that they may hold."""

from __future__ import annotations

import types
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Annotated, Any, Union, get_args, get_origin

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    StrictFloat,
    StrictInt,
    StrictStr,
)
from pydantic.fields import FieldInfo

from evomerge.checkpoints.configs.meanings import KINDS, Kind

Value = StrictBool | StrictInt | StrictFloat | StrictStr
"""A plain value of a knob or an option."""

Allowed = Annotated[
    Annotated[tuple[Kind, ...], Field(min_length=1)] | None,
    Field(
        description="Kinds of differences in what models compute with equal weights "
        "that are merged all the same, with a warning: "
        + ", ".join(f"`{kind}`" for kind in KINDS)
        + "."
    ),
]
"""What a file insists on."""

Name = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_-]{0,63}$")]
"""A name that becomes part of axis names, labels and file names."""

PartName = Annotated[str, Field(pattern=r"^[A-Za-z][A-Za-z0-9_.:-]{0,127}$")]
"""A name of ours, or of another package's part: an entry point, or ``module:Name``."""

Positive = Annotated[int, Field(gt=0)]

Few = Annotated[int, Field(gt=0, le=1024)]
"""A count of what is made one by one, before anything is searched."""

Fraction = Annotated[float, Field(gt=0.0, lt=1.0)]


def _listed(value: Any) -> Any:
    return (value,) if isinstance(value, str) else value


Listed = BeforeValidator(_listed)
"""Lets a single word stand for a list of one."""


class Spec(BaseModel):
    """PartName of a file: frozen, unknown keys refused, numbers finite."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, allow_inf_nan=False, str_strip_whitespace=True
    )


ANY = "*"
"""Stands for a name the user chooses, or a place in a list."""


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a file.

    Attributes:
        path: Its place, outermost first.
        help: What it means, in one or two sentences.
        default: What holds if it is not given, as it would be written; "needed" if it
            must be; empty where ``help`` tells, or nothing can be written for it.
    """

    path: tuple[str, ...]
    help: str
    default: str = ""

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
        yield Key(here, field.description or "", _default(field))
        yield from _of_type(field.annotation, here)


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "needed"
    value = field.default
    if "if not given" in (field.description or ""):  # said there, in words
        return ""
    if isinstance(value, str | bool):
        return value if isinstance(value, str) else str(value).lower()
    return f"{value:g}" if isinstance(value, int | float) else ""


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
