"""What a recipe merges: checkpoints, with adapters or changed, and other recipes."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from evomerge.core.digest import Scalar

if TYPE_CHECKING:
    from evomerge.core.recipes.recipe import Recipe


Measured = tuple[tuple[str, str], ...]
"""Kinds of statistics, in their order, and the fingerprint of each file."""


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A parent model, named by the fingerprint of its content.

    Attributes:
        statistics: What was measured of it.
    """

    fingerprint: str
    statistics: Measured = ()

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"checkpoint": self.fingerprint, **_measured(self.statistics)}


@dataclass(frozen=True, slots=True)
class Adapted:
    """A parent model with a low-rank adapter folded in.

    Attributes:
        statistics: What was measured of it.
    """

    fingerprint: str
    adapter: str
    statistics: Measured = ()

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        plain = {"checkpoint": self.fingerprint, "adapter": self.adapter}
        return {**plain, **_measured(self.statistics)}


def _measured(statistics: Measured) -> dict[str, dict[str, str]]:
    return {"statistics": dict(statistics)} if statistics else {}


@dataclass(frozen=True, slots=True)
class Nested:
    """Another recipe, merged on the fly."""

    recipe: Recipe

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        return {"recipe": self.recipe.to_json()}


@dataclass(frozen=True, slots=True)
class Transformed:
    """An input after a transformation computed from recorded statistics.

    Attributes:
        transform: Its kind.
        statistics: Digest of what it was computed by.
        settings: How it is computed, in name order.
        among: Name to every input it is computed from, in name order.
    """

    of: Input
    transform: str
    statistics: str
    settings: tuple[tuple[str, Scalar], ...] = ()
    among: tuple[tuple[str, Input], ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "settings", tuple(sorted(self.settings)))
        object.__setattr__(self, "among", tuple(sorted(self.among, key=lambda i: i[0])))

    def to_json(self) -> dict[str, Any]:
        """Return the plain form."""
        out: dict[str, Any] = {
            "of": self.of.to_json(),
            "transform": self.transform,
            "statistics": self.statistics,
        }
        if self.settings:
            out["settings"] = dict(self.settings)
        if self.among:
            out["among"] = {name: source.to_json() for name, source in self.among}
        return out


Input = Checkpoint | Adapted | Nested | Transformed


def contents(source: Input) -> tuple[str, ...]:
    """Return the fingerprint of all that an input is read from, each once."""
    match source:
        case Checkpoint():
            return (source.fingerprint, *dict(source.statistics).values())
        case Adapted():
            measured = dict(source.statistics).values()
            return (source.fingerprint, source.adapter, *measured)
        case Nested():
            within = [one for _, one in source.recipe.inputs]
        case Transformed():
            within = [source.of, *(one for _, one in source.among)]
    return tuple(dict.fromkeys(part for one in within for part in contents(one)))


def with_statistics(source: Input, kinds: Container[str]) -> Input:
    """Return an input with no other statistics than of these kinds.

    What is changed on its way into the merge has none: they are of what it was.
    """
    if isinstance(source, Transformed):
        among = tuple((name, with_statistics(one, ())) for name, one in source.among)
        return replace(source, of=with_statistics(source.of, ()), among=among)
    if not isinstance(source, Checkpoint | Adapted):
        return source
    kept = tuple((kind, name) for kind, name in source.statistics if kind in kinds)
    return replace(source, statistics=kept)
