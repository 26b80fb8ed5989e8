"""What a strategy is called and takes, as plain data."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a strategy.

    Attributes:
        kind: Type of the value; ``choice`` takes one of ``choices``.
        default: Used where the study says nothing; None lets the strategy choose.
        low: Smallest value allowed (numbers only).
        high: Largest value allowed (numbers only).
    """

    name: str
    kind: str
    default: float | int | str | bool | None
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with a value; None if nothing is."""
        if value is None and self.default is None:
            return None
        if self.kind == "choice":
            wanted = "one of " + ", ".join(self.choices)
            fits = value in self.choices
        elif self.kind == "bool":
            wanted, fits = "true or false", isinstance(value, bool)
        else:
            number = int if self.kind == "int" else (int, float)
            wanted = f"a number of type {self.kind} from {self.low:g} to {self.high:g}"
            fits = (
                isinstance(value, number)
                and not isinstance(value, bool)
                and self.low <= value <= self.high
            )
        return None if fits else f"expected {wanted}, got {value!r}"


@dataclass(frozen=True, slots=True)
class Kind:
    """One strategy.

    Attributes:
        generation_size: Usual number of candidates a generation, given the number of
            axes.
        least: Smallest generation it can work with.
        numeric_only: It cannot search categorical axes.
        most_numbers: Most numbers of three values or more that it can search.
        least_objectives: Fewest objectives it makes sense for.
        most_objectives: Most objectives it can search; None for any number.
        is_fold: Its state comes from repeating every ask and tell.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    generation_size: Callable[[int], int]
    least: int = 1
    numeric_only: bool = False
    most_numbers: int | None = None
    least_objectives: int = 1
    most_objectives: int | None = None
    is_fold: bool = False

    def option(self, name: str) -> Option | None:
        """Return the option of this name, if there is one."""
        return next((option for option in self.options if option.name == name), None)
