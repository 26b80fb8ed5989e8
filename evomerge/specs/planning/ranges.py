"""What a searched knob may be: from the written range to an axis."""

from __future__ import annotations

import math
from dataclasses import dataclass

from evomerge.core.digest import Scalar
from evomerge.core.operators.catalogue import Knob
from evomerge.core.space import GRID_STEPS, Axis, ChoiceAxis, FloatAxis, IntAxis
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import Search

MOST_STEPS = 10**9
"""Most steps of a range with a grid of its own."""


@dataclass(frozen=True, slots=True)
class Ranges:
    """Reads values and ranges of one knob.

    Attributes:
        knob: What the catalogue says of it.
        key: Where it stands in the file.
        mistakes: Where to note what is wrong.
    """

    knob: Knob
    key: str
    mistakes: Mistakes

    def value(self, value: Scalar) -> Scalar:
        """Check a fixed value; 1 and 1.0 come out the same, and give one digest."""
        if not self.knob.allows(value):
            self.mistakes.add(self.key, f"expected {self.knob.allowed}, got {value!r}.")
        whole = isinstance(value, int) and not isinstance(value, bool)
        return float(value) if whole and self.knob.kind == "float" else value

    def axis(self, search: Search) -> Axis | None:
        """Return the axis a search opens, without its final name.

        Returns:
            None if no axis makes sense; a mistake is noted then.
        """
        if not self.knob.searchable:
            self._wrong("", f"a fixed value: {self.knob.name!r} is not for searching")
            return None
        if search.choices is not None or self.knob.kind == "choice":
            return self._choice(search)
        return self._number(search)

    def _wrong(self, below: str, expected: str) -> None:
        key = f"{self.key}.{below}" if below else self.key
        self.mistakes.add(key, f"expected {expected}.")

    def _choice(self, search: Search) -> Axis | None:
        for word in ("low", "high", "log", "grid"):
            if getattr(search, word) is not None:
                self._wrong(
                    word, f"choices alone: {self.knob.name!r} picks from a list"
                )
        if search.layout.depth is not None:
            self._wrong("by.depth", "groups: there is nothing in between choices")
        checked = Ranges(self.knob, f"{self.key}.choices", self.mistakes)
        written = search.choices or self.knob.choices
        choices = tuple(dict.fromkeys(checked.value(choice) for choice in written))
        if search.start is not None and search.start not in choices:
            self._wrong("start", f"one of the choices, got {search.start!r}")
            return None
        index = 0 if search.start is None else choices.index(search.start)
        return ChoiceAxis("", choices, None if search.start is None else choices[index])

    def _number(self, search: Search) -> Axis | None:
        low = self.knob.low if search.low is None else search.low
        high = self.knob.high if search.high is None else search.high
        if low is None or high is None:
            self._wrong("", "low and high; this knob has no usual range")
            return None
        if low >= high:
            said = "low" if search.low is not None else "high"
            self._wrong(
                said,
                f"low below high, got low {low:g} and high {high:g} (what is not "
                "written comes from the catalogue)",
            )
            return None
        self._check_bound("low", low)
        self._check_bound("high", high)
        start = self._start(search, low, high)
        if self.knob.kind == "int":
            begin = None if start is None else round(start)
            return IntAxis("", round(low), round(high), begin)
        return self._real(search, low, high, start)

    def _real(
        self, search: Search, low: float, high: float, start: float | None
    ) -> Axis | None:
        log = self.knob.log if search.log is None else search.log
        if log and low <= 0:
            self._wrong("low", f"a number above 0 on a logarithmic scale, got {low:g}")
            return None
        if search.grid is not None and (log or search.grid > high - low):
            why = "a logarithmic scale has its own" if log else "it exceeds the range"
            self._wrong("grid", f"another grid or none, got {search.grid:g}: {why}")
            return None
        grid = search.grid or (None if log else self.knob.grid)
        if not _has_steps(low, high, log, grid):
            self._wrong(
                "",
                f"a range that floats can step through, in {MOST_STEPS:g} steps at "
                f"most, got {low:g} to {high:g}"
                + (f" in steps of {grid:g}" if grid else ""),
            )
            return None
        return FloatAxis("", low, high, start, log, grid)

    def _check_bound(self, word: str, bound: float) -> None:
        value: Scalar = bound
        if self.knob.kind == "int" and float(bound).is_integer():
            value = int(bound)
        if not self.knob.allows(value):
            self._wrong(word, f"{self.knob.allowed}, got {bound:g}")

    def _start(self, search: Search, low: float, high: float) -> float | None:
        start = search.start
        if start is None:
            usual = self.knob.default
            if isinstance(usual, int | float) and low <= usual <= high:
                return float(usual)
            return None
        if isinstance(start, bool | str) or not low <= start <= high:
            self._wrong("start", f"a number from {low:g} to {high:g}, got {start!r}")
            return None
        return float(start)


def _has_steps(low: float, high: float, log: bool, grid: float | None) -> bool:
    """Tell whether every step of a range leads to another float, and there are few."""
    if log:
        return math.isfinite(high / low)
    width = high - low
    step = grid or width / GRID_STEPS
    leads_on = low + step > low and high - step < high
    return math.isfinite(width) and leads_on and width <= MOST_STEPS * step
