"""Collects mistakes, so that all are reported together."""

from __future__ import annotations

from dataclasses import dataclass, field

from evomerge.errors import Problem, SpecError


@dataclass(slots=True)
class Mistakes:
    """The mistakes found so far in one file.

    Attributes:
        file: Its name, as messages show it.
    """

    file: str
    found: list[Problem] = field(default_factory=list)

    def add(self, key: str, message: str) -> None:
        """Note a mistake at a key of the file; one per key is enough."""
        where = f"{self.file}: {key}" if key else self.file
        if all(problem.where != where for problem in self.found):
            self.found.append(Problem(where, message))

    def stop_if_any(self) -> None:
        """End here if anything was found.

        Raises:
            SpecError: Carries every mistake noted so far.
        """
        if self.found:
            raise SpecError(self.found)
