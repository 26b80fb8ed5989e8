"""Collects mistakes and warnings, so that all are reported together."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from evomerge.errors import Problem, SpecError


@dataclass(slots=True)
class Mistakes:
    """The mistakes found so far in one file, and what is worth a warning.

    Attributes:
        file: Its name, as messages show it.
        places: Outermost key to where it stands instead: the keys of a stage.
        warnings: What the user is told although nothing is refused.
        strict: What would be a warning is a mistake.
        muted: Keys that nothing is said of, nor of any below: what could be found
            there only follows from a mistake that is told already.
        allow: Kinds of differences between models that the file allows.
    """

    file: str
    found: list[Problem] = field(default_factory=list)
    places: Mapping[str, str] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    strict: bool = False
    muted: tuple[str, ...] = ()
    allow: Collection[str] = ()

    def add(self, key: str, message: str) -> None:
        """Note a mistake at a key of the file; one per key is enough."""
        if any(f"{key}.".startswith(f"{muted}.") for muted in self.muted):
            return
        where = self.where(key)
        if all(problem.where != where for problem in self.found):
            self.found.append(Problem(where, message))

    def warn(self, key: str, message: str) -> None:
        """Note something that is not refused but must be seen."""
        if self.strict:
            self.add(key, message)
            return
        warning = Problem(self.where(key), message)
        if warning not in self.warnings:
            self.warnings.append(warning)

    def where(self, key: str) -> str:
        """Return how a message calls a key."""
        if not key:
            return self.file
        first, dot, below = key.partition(".")
        return f"{self.file}: {self.places.get(first, first)}{dot}{below}"

    def any_at(self, key: str) -> bool:
        """Tell whether anything was found at a key, or below."""
        return any(problem.where.startswith(self.where(key)) for problem in self.found)

    def stop_if_any(self) -> None:
        """End here if anything was found.

        Raises:
            SpecError: Carries every mistake noted so far.
        """
        if self.found:
            raise SpecError(self.found)
