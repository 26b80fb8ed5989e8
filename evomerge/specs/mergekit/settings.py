"""Values of parameters: plain, by layer (gradients), and by tensor (filters).

A setting is a value; or a list of values spread evenly over the layers of a slice, with
straight lines between numbers; or ``{value, filter}``, or a list of those, of which the
first counts whose filter is part of the tensor's name.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from evomerge.core.digest import Scalar
from evomerge.core.nearest import did_you_mean
from evomerge.specs.mergekit.references import passed_over
from evomerge.specs.reading.mistakes import Mistakes

Kind = Literal["float", "int", "bool"]
Position = tuple[int, int]
"""Where in its slice a layer lies, as a fraction: 0 is the first, 1 the last."""

START: Position = (0, 1)
"""What stands before and after the layers takes the first value of a list."""

_CASE_KEYS = ("value", "filter")
_KIND_WORDS: Mapping[Kind, str] = {
    "float": "a finite number",
    "int": "a whole number",
    "bool": "true or false",
}
_TRUE = frozenset({"true", "yes", "on", "1", "t", "y"})
_FALSE = frozenset({"false", "no", "off", "0", "f", "n"})


@dataclass(frozen=True, slots=True)
class Case:
    """Values for the tensors whose name contains the filter; None serves all."""

    filter: str | None
    values: tuple[Scalar, ...]

    def serves(self, tensor: str) -> bool:
        """Tell whether it speaks of a tensor."""
        return self.filter is None or self.filter in tensor


@dataclass(frozen=True, slots=True)
class Setting:
    """A written setting: the first case that serves a tensor decides.

    Attributes:
        key: Where it stands in the file.
    """

    key: str
    cases: tuple[Case, ...]

    def at(self, tensor: str, position: Position) -> Scalar | None:
        """Return the value for a tensor, or None if no case serves it."""
        for case in self.cases:
            if case.serves(tensor):
                return _between(case.values, position)
        return None


@dataclass(frozen=True, slots=True)
class Found:
    """A value, and the key of the file that gave it; empty for a default."""

    value: Scalar
    key: str


def look_up(
    chain: Iterable[Mapping[str, Setting]],
    name: str,
    tensor: str,
    position: Position,
) -> Found | None:
    """Return the value of a parameter from the first of several places that has one."""
    for settings in chain:
        setting = settings.get(name)
        value = None if setting is None else setting.at(tensor, position)
        if setting is not None and value is not None:
            return Found(value, setting.key)
    return None


def _between(values: tuple[Scalar, ...], position: Position) -> Scalar:
    """Read a gradient; exact where a layer lies on one of its values."""
    way, whole = position
    step, rest = divmod(way * (len(values) - 1), whole)
    low = values[step]
    if rest == 0 or not isinstance(low, float):
        return low  # true, false and counts are picked, not mixed
    part = rest / whole
    return (1.0 - part) * low + part * float(values[step + 1])


def read_setting(
    written: Any, kind: Kind, key: str, mistakes: Mistakes
) -> Setting | None:
    """Read a setting; None, and a mistake noted, where it makes no sense."""
    if isinstance(written, Mapping):
        case = _case(written, kind, key, mistakes)
        return None if case is None else Setting(key, (case,))
    if isinstance(written, list) and any(isinstance(e, Mapping) for e in written):
        found = [
            _case(entry, kind, f"{key}.{i}", mistakes)
            for i, entry in enumerate(written)
        ]
        cases = tuple(case for case in found if case is not None)
        return Setting(key, cases) if len(cases) == len(found) else None
    values = _values(written, kind, key, mistakes)
    return None if values is None else Setting(key, (Case(None, values),))


def _case(written: Any, kind: Kind, key: str, mistakes: Mistakes) -> Case | None:
    if not isinstance(written, Mapping):
        mistakes.add(
            key,
            f"expected a map of value and filter like its neighbours, got {written!r}.",
        )
        return None
    for name in written:
        if name not in _CASE_KEYS:
            mistakes.warn(f"{key}.{name}", passed_over(str(name), _CASE_KEYS))
    wanted = written.get("filter")
    if wanted is not None and not isinstance(wanted, str):
        mistakes.add(
            f"{key}.filter", f"expected text, got {wanted!r}; put it in quotes."
        )
        return None
    if "value" not in written:
        mistakes.add(f"{key}.value", "expected this key, got nothing; it is required.")
        return None
    values = _values(written["value"], kind, f"{key}.value", mistakes)
    if values is None:
        return None
    return Case(None if wanted in (None, "", "*") else wanted, values)


def _values(
    written: Any, kind: Kind, key: str, mistakes: Mistakes
) -> tuple[Scalar, ...] | None:
    entries = written if isinstance(written, list) else [written]
    if not entries:
        mistakes.add(key, "expected at least one value, got an empty list.")
        return None
    out = [_READ[kind](entry) for entry in entries]
    for entry, value in zip(entries, out, strict=True):
        if value is None:
            got = "nothing" if entry is None else repr(entry)
            mistakes.add(key, f"expected {_KIND_WORDS[kind]}, got {got}.")
            return None
    return tuple(value for value in out if value is not None)


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (ValueError, OverflowError):  # no number, or more than a float holds
        return None
    return number if math.isfinite(number) else None


def _int(value: Any) -> int | None:
    number = _float(value)
    return int(number) if number is not None and number.is_integer() else None


def _bool(value: Any) -> bool | None:
    if isinstance(value, bool):
        return value
    if isinstance(value, int | float) and value in (0, 1):
        return bool(value)
    word = value.lower() if isinstance(value, str) else ""
    return True if word in _TRUE else False if word in _FALSE else None


_READ: Mapping[Kind, Callable[[Any], Scalar | None]] = {
    "float": _float,
    "int": _int,
    "bool": _bool,
}


def warn_of_filters(
    settings: Iterable[Setting], names: Collection[str], mistakes: Mistakes
) -> None:
    """Warn of filters that no tensor's name has in it.

    Args:
        settings: Of the whole file.
        names: Of all tensors that are merged, as mergekit calls them; none where there
            are mistakes.
        mistakes: Where to note it.
    """
    parts = {part for name in names for part in name.split(".") if not part.isdigit()}
    for setting in settings if names else ():
        for word in (case.filter for case in setting.cases if case.filter is not None):
            if not any(word in name for name in names):
                mistakes.warn(
                    setting.key,
                    f"no tensor has {word!r} in its name, so its value is never used"
                    f"{did_you_mean(word, sorted(parts))}",
                )
