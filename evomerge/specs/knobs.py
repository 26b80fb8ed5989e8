"""One knob of a space: its axes, and the plan that reads them.

The written form says little; what it leaves out comes from the catalogue.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.core.blueprint import Coordinate, KnobPlan, Schedule, Term
from evomerge.core.catalogue import Knob
from evomerge.core.digest import Scalar
from evomerge.core.space import Axis, ChoiceAxis, FloatAxis, IntAxis
from evomerge.specs.keys import did_you_mean
from evomerge.specs.mistakes import Mistakes
from evomerge.specs.space import By, Search

SPLIT = ("attn", "mlp", "other")


@dataclass(frozen=True, slots=True)
class Draft:
    """One knob planned: where its values come from, and the axes it opens."""

    plan: KnobPlan
    axes: tuple[Axis, ...]


@dataclass(frozen=True, slots=True)
class KnobWriter:
    """Plans one knob of one operator.

    Attributes:
        knob: What the catalogue says of it.
        inputs: Names of the merged inputs.
        n_layers: Layers of the model.
        key: Where the knob stands in the file.
        prefix: Beginning of its axes' names: the knob, or ``operator.knob``.
        mistakes: Where to note what is wrong.
    """

    knob: Knob
    inputs: tuple[str, ...]
    n_layers: int
    key: str
    prefix: str
    mistakes: Mistakes

    def draft(self, entry: Any, default: Scalar) -> Draft:
        """Plan the knob from what was written, or from its default.

        Args:
            entry: The knob as the models read it; None if it was not written.
            default: Its value where nothing is written.
        """
        if isinstance(entry, Mapping):
            return self._each(entry, default)
        shared = isinstance(entry, Search) and entry.per_input == "shared"
        if self.knob.per_input and _is_open(entry) and not shared:
            return self._each(dict.fromkeys(self.inputs, entry), default)
        written = default if entry is None else entry
        return self._join([self._one(written, self.prefix, self.key)])

    def _each(self, entries: Mapping[str, Any], default: Scalar) -> Draft:
        """Plan a value or a search for every input."""
        if not self.knob.per_input:
            self.mistakes.add(
                self.key,
                f"expected one value: {self.knob.name!r} is no knob of single experts, "
                f"got a mapping with {', '.join(entries)}.",
            )
            return self._join([self._one(default, self.prefix, self.key)])
        for name in entries:
            if name not in self.inputs:
                self.mistakes.add(
                    f"{self.key}.{name}",
                    f"expected one of the experts{did_you_mean(name, self.inputs)}",
                )
        single = [
            self._one(
                entries.get(name, default),
                f"{self.prefix}.{name}",
                f"{self.key}.{name}" if name in entries else self.key,
            )
            for name in self.inputs
        ]
        return self._join(single)

    def _join(
        self, single: Sequence[tuple[Mapping[str, Schedule], tuple[Axis, ...]]]
    ) -> Draft:
        """Put the schedules of all inputs together, split by role if any is."""
        split = any(len(by_role) > 1 for by_role, _ in single)
        groups = SPLIT if split else ("*",)
        schedules = tuple(
            (group, tuple(by_role.get(group) or by_role["*"] for by_role, _ in single))
            for group in groups
        )
        plan = KnobPlan(self.knob.name, schedules, per_input=self.knob.per_input)
        return Draft(plan, tuple(axis for _, axes in single for axis in axes))

    def _one(
        self, entry: Any, prefix: str, key: str
    ) -> tuple[Mapping[str, Schedule], tuple[Axis, ...]]:
        """Plan one value, a row of control points or a search."""
        if entry == "search" and not self.knob.allows(entry):
            entry = Search()
        if isinstance(entry, Search):
            return self._open(entry, prefix, key)
        if isinstance(entry, tuple):
            return {"*": self._points(entry, key)}, ()
        return {"*": Schedule((self._value(entry, key),))}, ()

    def _points(self, points: tuple[Scalar, ...], key: str) -> Schedule:
        if self.knob.kind == "choice":
            self.mistakes.add(
                key,
                f"expected {self.knob.allowed}, got a list; only numbers can run "
                "through the depth.",
            )
            points = points[:1]
        self._check_points(len(points), key)
        terms = tuple(self._value(point, key) for point in points)
        return self._schedule(terms, None)

    def _schedule(self, terms: tuple[Term, ...], grid: float | None) -> Schedule:
        whole = self.knob.kind == "int"
        return Schedule(terms, grid=grid or self.knob.grid, whole=whole)

    def _check_points(self, n_points: int, key: str) -> None:
        if n_points > self.n_layers:
            self.mistakes.add(
                key,
                f"expected at most one control point per layer ({self.n_layers}), "
                f"got {n_points}.",
            )

    def _value(self, value: Scalar, key: str) -> Scalar:
        if not self.knob.allows(value):
            self.mistakes.add(key, f"expected {self.knob.allowed}, got {value!r}.")
        return float(value) if _is_int_for(self.knob, value) else value

    def _open(
        self, search: Search, prefix: str, key: str
    ) -> tuple[Mapping[str, Schedule], tuple[Axis, ...]]:
        """Lay the axes of a search out over roles and depth."""
        by = search.layout
        template = self._axis(search, key)
        if by.depth is not None:
            self._check_depth(by.depth, key)
        if template is None:
            fallback = self.knob.default
            return {"*": Schedule((1.0 if fallback is None else fallback,))}, ()
        split = by.roles == "split"
        by_role: dict[str, Schedule] = {}
        axes: list[Axis] = []
        ends = _ends(by, prefix)
        for group in SPLIT if split else ("*",):
            stem = f"{prefix}.{group}" if split else prefix
            names = list(self._names(by, stem))
            terms: tuple[Term, ...] = tuple(Coordinate(name) for name in names)
            schedule = replace(self._schedule(terms, search.grid), every=by.groups)
            if group in ("*", "other"):
                schedule = replace(schedule, embed=ends[0], head=ends[1])
                axes += _named(template, ends[0])
            axes += [replace(template, name=name) for name in names]
            if group in ("*", "other"):
                axes += _named(template, ends[1])
            by_role[group] = schedule
        return by_role, tuple(axes)

    def _names(self, by: By, stem: str) -> Iterator[str]:
        """Name the axes of one run through the depth."""
        if by.groups is not None:
            for first in range(0, self.n_layers, by.groups):
                last = min(first + by.groups, self.n_layers) - 1
                layers = f"L{first}" if first == last else f"L{first}-{last}"
                yield f"{stem}.{layers}"
        elif by.depth is not None:
            for point in range(by.depth):
                yield f"{stem}.d{point}"
        else:
            yield f"{stem}.layers" if by.ends == "own" else stem

    def _check_depth(self, depth: int, key: str) -> None:
        self._check_points(depth, f"{key}.by.depth")
        if self.knob.kind == "choice":
            self.mistakes.add(
                f"{key}.by.depth",
                f"expected groups for {self.knob.name!r}: there is nothing in between "
                "words.",
            )

    def _axis(self, search: Search, key: str) -> Axis | None:
        """Return the axis a search opens, without its final name."""
        if not self.knob.searchable:
            self.mistakes.add(
                key,
                f"expected a fixed value: {self.knob.name!r} is not for searching.",
            )
            return None
        if self.knob.kind == "choice":
            return self._choice(search, key)
        return self._number(search, key)

    def _choice(self, search: Search, key: str) -> Axis | None:
        for word in ("low", "high", "log", "grid"):
            if getattr(search, word) is not None:
                self.mistakes.add(
                    f"{key}.{word}",
                    f"expected choices: {self.knob.name!r} is {self.knob.allowed}.",
                )
        choices = search.choices or self.knob.choices
        for choice in choices:
            if not self.knob.allows(choice):
                self.mistakes.add(
                    f"{key}.choices", f"expected {self.knob.allowed}, got {choice!r}."
                )
        if search.start is not None and search.start not in choices:
            self.mistakes.add(
                f"{key}.start", f"expected one of the choices, got {search.start!r}."
            )
            return None
        return ChoiceAxis("", tuple(choices), search.start)

    def _number(self, search: Search, key: str) -> Axis | None:
        if search.choices is not None:
            return self._choice_of_numbers(search, key)
        low = self.knob.low if search.low is None else search.low
        high = self.knob.high if search.high is None else search.high
        if low is None or high is None:
            self.mistakes.add(
                key, "expected low and high; this knob has no usual range."
            )
            return None
        if low >= high:
            self.mistakes.add(
                f"{key}.{'low' if search.low is not None else 'high'}",
                f"expected low below high, got low {low:g} and high {high:g} (what is "
                "not written comes from the catalogue).",
            )
            return None
        for word, bound in (("low", low), ("high", high)):
            self._check_bound(bound, f"{key}.{word}")
        start = self._start(search, key, low, high)
        if self.knob.kind == "int":
            return IntAxis(
                "", round(low), round(high), None if start is None else round(start)
            )
        log = self.knob.log if search.log is None else search.log
        if log and low <= 0:
            self.mistakes.add(
                f"{key}.low", f"expected above 0 on a logarithmic scale, got {low:g}."
            )
            return None
        grid = search.grid or (None if log else self.knob.grid)
        return FloatAxis("", low, high, start, log, grid)

    def _choice_of_numbers(self, search: Search, key: str) -> Axis | None:
        if search.layout.depth is not None:
            self.mistakes.add(
                f"{key}.by.depth",
                "expected groups beside choices: the values between "
                "control points would be none of them.",
            )
        values = tuple(
            self._value(choice, f"{key}.choices") for choice in search.choices or ()
        )
        start = (
            None if search.start is None else self._value(search.start, f"{key}.start")
        )
        if start is not None and start not in values:
            self.mistakes.add(
                f"{key}.start", f"expected one of the choices, got {search.start!r}."
            )
            return None
        return ChoiceAxis("", values, start)

    def _check_bound(self, bound: float, key: str) -> None:
        value: Scalar = bound
        if self.knob.kind == "int" and float(bound).is_integer():
            value = int(bound)
        if not self.knob.allows(value):
            self.mistakes.add(key, f"expected {self.knob.allowed}, got {bound:g}.")

    def _start(self, search: Search, key: str, low: float, high: float) -> float | None:
        start = search.start
        if start is None:
            default = self.knob.default
            fits = isinstance(default, int | float) and low <= default <= high
            return float(default) if fits and default is not None else None
        if isinstance(start, bool | str) or not low <= start <= high:
            self.mistakes.add(
                f"{key}.start",
                f"expected a number from {low:g} to {high:g}, got {start!r}.",
            )
            return None
        return float(start)


def _is_open(entry: Any) -> bool:
    return isinstance(entry, Search) or entry == "search"


def _is_int_for(knob: Knob, value: Scalar) -> bool:
    """Whole numbers written for a real knob: 1 and 1.0 must give one digest."""
    return (
        knob.kind == "float" and isinstance(value, int) and not isinstance(value, bool)
    )


def _ends(by: By, prefix: str) -> tuple[Coordinate | None, Coordinate | None]:
    if by.ends == "nearest":
        return None, None
    return Coordinate(f"{prefix}.embed"), Coordinate(f"{prefix}.head")


def _named(template: Axis, end: Coordinate | None) -> list[Axis]:
    return [] if end is None else [replace(template, name=end.axis)]
