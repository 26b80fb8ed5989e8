"""One knob of a space: its axes, the plan that reads them, and when it means something.

The written form says little; what it leaves out comes from the catalogue. Where a knob
only means something beside a certain choice of another, and that choice is open, its
axis is conditional on it; where it is decided otherwise, the knob opens no axis at all.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from evomerge.core.blueprint import Coordinate, KnobPlan, Schedule, Term
from evomerge.core.digest import Scalar
from evomerge.core.nearest import did_you_mean
from evomerge.core.operators.catalogue import Choices, Knob, Operator
from evomerge.core.space import Axis, Condition
from evomerge.specs.planning.ranges import Ranges
from evomerge.specs.reading.mistakes import Mistakes
from evomerge.specs.schema.space import By, Search

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
        plan = KnobPlan(
            self.knob.name, schedules, self.knob.per_input, self.knob.only_with
        )
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
        return Ranges(self.knob, key, self.mistakes).value(value)

    def _open(
        self, search: Search, prefix: str, key: str
    ) -> tuple[Mapping[str, Schedule], tuple[Axis, ...]]:
        """Lay the axes of a search out over roles and depth."""
        by = search.layout
        template = Ranges(self.knob, key, self.mistakes).axis(search)
        if by.depth is not None:
            self._check_points(by.depth, f"{key}.by.depth")
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


def _is_open(entry: Any) -> bool:
    return isinstance(entry, Search) or entry == "search"


def _ends(by: By, prefix: str) -> tuple[Coordinate | None, Coordinate | None]:
    if by.ends == "nearest":
        return None, None
    return Coordinate(f"{prefix}.embed"), Coordinate(f"{prefix}.head")


def _named(template: Axis, end: Coordinate | None) -> list[Axis]:
    return [] if end is None else [replace(template, name=end.axis)]


@dataclass(frozen=True, slots=True)
class Never:
    """The knob means nothing here.

    Attributes:
        because: What it would need, in words.
    """

    because: str


Guard = Condition | Never | None
"""When a knob means something; None for always."""


def guard(needs: Choices, drafts: Mapping[str, Draft]) -> Guard:
    """Return when something is as a knob needs it to mean something.

    Of several open choices the first guards the axes; a choice that varies over the
    model guards nothing, as the knob may matter somewhere.

    Args:
        needs: Choices of other knobs that must hold.
        drafts: Plans of the operator's knobs that were planned before it.
    """
    found: Condition | None = None
    for name, values in needs:
        term = _single(drafts[name])
        if isinstance(term, Coordinate):
            found = found or Condition(term.axis, values)
        elif term is not None and term not in values:
            wanted = " or ".join(str(value) for value in values)
            return Never(f"{name}: {wanted}, which is {term}")
    return found


def in_order(operators: Sequence[Operator]) -> list[str]:
    """Return the names of all knobs, those that others depend on before them."""
    needs: dict[str, list[str]] = {}
    for operator in operators:
        for knob in operator.knobs:
            needs.setdefault(knob.name, []).extend(name for name, _ in knob.only_with)
    return list(_visited(needs, needs))


def _visited(names: Iterable[str], needs: Mapping[str, list[str]]) -> dict[str, None]:
    out: dict[str, None] = {}
    for name in names:
        out |= _visited(needs[name], needs)
        out[name] = None
    return out


def _single(draft: Draft) -> Term | None:
    """Return the one term of a knob; None where it varies over the model."""
    schedules = {schedule for _, each in draft.plan.schedules for schedule in each}
    (first, *others) = schedules
    if others or len(first.terms) > 1 or first.embed != first.head:
        return None
    return first.terms[0] if first.embed is None else None
