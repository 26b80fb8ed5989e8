"""Values of many tensors as a setting: gradients over layers, filters over names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from evomerge.core.digest import Scalar

Column = tuple[Scalar, ...]
"""A tensor's values over the layers of a slice; a single one outside the layers."""


class NoFilterError(Exception):
    """No part of a tensor's name tells it from the others."""


def write_setting(columns: Mapping[str, Column], layered: Iterable[str]) -> Any:
    """Write a setting that gives every tensor its values.

    Args:
        columns: Tensor name, of layers without their number, to its values.
        layered: Those that are in layers; the others stand before or after them and
            take the first value of a list.

    Returns:
        A value, a list of values by layer, or a list of values with filters.

    Raises:
        NoFilterError: Two tensors cannot be told apart by a part of their names.
    """
    inside = set(layered)
    groups: dict[Column, list[str]] = {}
    for name in sorted(columns, key=lambda name: (name not in inside, name)):
        column = _short(columns[name])
        home = next((c for c in groups if c[0] == column[0]), None)
        if name not in inside and home is not None:
            column = home
        groups.setdefault(column, []).append(name)
    usual = max(groups, key=lambda c: (len(groups[c]), -list(groups).index(c)))
    cases: list[dict[str, Any]] = []
    for column, names in groups.items():
        if column != usual:
            others = [name for name in columns if name not in names]
            cases += [
                {"filter": word, "value": _written(column)}
                for word in _words(names, others)
            ]
    if not cases:
        return _written(usual)
    return [*cases, {"value": _written(usual)}]


def _short(column: Column) -> Column:
    return column[:1] if len(set(column)) == 1 else column


def _written(column: Column) -> Any:
    return column[0] if len(column) == 1 else list(column)


def _words(names: Sequence[str], others: Sequence[str]) -> list[str]:
    """Return few parts of names that all of these have one of, and no other has."""
    left, out = list(names), []
    while left:
        served: Counter[str] = Counter(
            part
            for name in left
            for part in _parts(name)
            if not any(part in other for other in others)
        )
        if not served:
            raise NoFilterError(left[0])
        best = min(served, key=lambda part: (-served[part], len(part), part))
        out.append(best)
        left = [name for name in left if best not in name]
    return out


def _parts(name: str) -> set[str]:
    """Return runs of words of a name; numbers alone would match layers."""
    words = name.split(".")
    runs = {
        ".".join(words[i:j])
        for i in range(len(words))
        for j in range(i + 1, len(words) + 1)
    }
    return {run for run in runs if not run.replace(".", "").isdigit()}
