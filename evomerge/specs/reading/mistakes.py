"""The mistakes of a file: those that its model finds, those noted later, and warnings.

All of them are reported together.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_core import ErrorDetails

from evomerge.core.nearest import did_you_mean
from evomerge.errors import Problem, SpecError
from evomerge.specs.reading.spec import Spec, siblings


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
        unknown: The file says what becomes of tensors that no rule covers.
    """

    file: str
    found: list[Problem] = field(default_factory=list)
    places: Mapping[str, str] = field(default_factory=dict)
    warnings: list[Problem] = field(default_factory=list)
    strict: bool = False
    muted: tuple[str, ...] = ()
    allow: Collection[str] = ()
    unknown: bool = False

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
        self.tell(key, message)

    def tell(self, key: str, message: str) -> None:
        """Note something that is good to know, and no mistake however strict one is."""
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


S = TypeVar("S", bound=Spec)


def validate(
    model: type[S],
    data: Mapping[str, Any],
    file: str,
    unknown_keys: list[Problem] | None = None,
) -> tuple[S | None, list[Problem]]:
    """Read plain data into a model, and go on after unknown keys.

    Args:
        model: Of the file.
        data: What it holds.
        file: Its name.
        unknown_keys: Takes unknown keys, where they are no mistakes.

    Returns:
        The model, or None where what is wrong leaves nothing to work with; and every
        mistake. A model beside mistakes is only good for finding further ones.
    """
    try:
        return model.model_validate(data), []
    except ValidationError as error:
        details = error.errors(include_url=False)
    unknown = [d["loc"] for d in details if d["type"] == "extra_forbidden"]
    if unknown_keys is not None:
        odd = [d for d in details if d["loc"] in unknown]
        unknown_keys += _once([_problem(model, detail, file) for detail in odd])
    problems = [
        _problem(model, detail, file)
        for detail in details
        if unknown_keys is None or detail["loc"] not in unknown
    ]
    if len(unknown) < len(details):
        return None, _once(problems)
    try:
        return model.model_validate(_without(data, map(place, unknown))), _once(
            problems
        )
    except ValidationError:
        return None, _once(problems)


def salvaged(
    model: type[S], data: Mapping[str, Any], stand_ins: Mapping[str, Any]
) -> S | None:
    """Read plain data into a model without whatever is wrong in it.

    Args:
        model: What the data should be.
        data: As it was written.
        stand_ins: Required key to what may stand for it, if it is left out.

    Returns:
        A model that is only good for finding further mistakes, if there is one.
    """
    rest: Any = data
    for _ in range(_LAYERS):
        rest = {**stand_ins, **rest}
        try:
            return model.model_validate(rest)
        except ValidationError as error:
            rest = _without(rest, map(_cut, error.errors(include_url=False)))
    return None


_LAYERS = 6
"""Most times that what something stood in is left out too, not whole without it."""


def _cut(detail: ErrorDetails) -> tuple[str, ...]:
    """Return what to leave out for the rest to be read."""
    path = place(detail["loc"])
    return path[:-1] or path if detail["type"] == "missing" else path


def place(loc: tuple[int | str, ...]) -> tuple[str, ...]:
    """Return where an error lies in the file; marks of unions are no part of it."""
    return tuple(str(part) for part in loc if not _is_mark(part))


def _is_mark(part: int | str) -> bool:
    if not isinstance(part, str):
        return False
    # Marks chosen by our own unions, then those pydantic makes up for plain ones.
    return (part.startswith("<") and part.endswith(">")) or part in (
        "bool",
        "int",
        "float",
        "str",
        "[key]",
    )


def _problem(model: type[Spec], detail: ErrorDetails, file: str) -> Problem:
    path = place(detail["loc"])
    where = f"{file}: {'.'.join(path)}" if path else file
    if detail["type"] == "extra_forbidden":
        known = siblings(model, path)
        return Problem(where, f"unknown key{did_you_mean(path[-1], known)}")
    say = _WORDS.get(detail["type"])
    if say is not None:
        return Problem(where, say(detail))
    return Problem(where, f"{detail['msg']}, got {_short(detail['input'])}.")


def _value_error(detail: ErrorDetails) -> str:
    said = detail["msg"].removeprefix("Value error, ")
    return said if said.endswith((".", "?")) else f"{said}."


def _literal(detail: ErrorDetails) -> str:
    expected = detail["ctx"]["expected"]
    known = [
        word.strip("' ") for word in expected.replace(" or ", ", ").split(",") if word
    ]
    got = _short(detail["input"])
    return f"expected {expected}, got {got}{did_you_mean(str(detail['input']), known)}"


def _pattern(detail: ErrorDetails) -> str:
    return (
        "expected a name that begins with a letter and goes on with letters, digits, "
        f"'-' or '_', got {_short(detail['input'])}."
    )


def _expected(what: str) -> Callable[[ErrorDetails], str]:
    return lambda detail: f"expected {what}, got {_short(detail['input'])}."


def _bound(sign: str, key: str) -> Callable[[ErrorDetails], str]:
    return lambda detail: (
        f"expected a number {sign} {detail['ctx'][key]:g}, "
        f"got {_short(detail['input'])}."
    )


_WORDS: Mapping[str, Callable[[ErrorDetails], str]] = {
    "missing": lambda _: "expected this key, got nothing; it is required.",
    "value_error": _value_error,
    "literal_error": _literal,
    "string_pattern_mismatch": _pattern,
    "string_type": _expected("text"),
    "string_too_short": _expected("some text"),
    "bool_type": _expected("true or false"),
    "bool_parsing": _expected("true or false"),
    "int_type": _expected("a whole number"),
    "int_parsing": _expected("a whole number"),
    "int_from_float": _expected("a whole number"),
    "float_type": _expected("a number"),
    "float_parsing": _expected("a number"),
    "tuple_type": _expected("a list"),
    "dict_type": _expected("a mapping"),
    "model_type": _expected("a mapping"),
    "model_attributes_type": _expected("a mapping"),
    "path_type": _expected("a path"),
    "too_short": _expected("at least one entry"),
    "finite_number": _expected("a finite number"),
    "greater_than": _bound("above", "gt"),
    "greater_than_equal": _bound("of at least", "ge"),
    "less_than": _bound("below", "lt"),
    "less_than_equal": _bound("of at most", "le"),
}


def _short(value: Any) -> str:
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def _once(problems: list[Problem]) -> list[Problem]:
    """Unions report the same place once per member: keep the first of each."""
    seen: dict[str, Problem] = {}
    for problem in problems:
        seen.setdefault(problem.where, problem)
    return list(seen.values())


def _without(data: Any, places: Iterable[tuple[str, ...]]) -> Any:
    """Copy plain data without what stands at these places."""
    drop = set(places)

    def copy(value: Any, path: tuple[str, ...]) -> Any:
        if isinstance(value, Mapping):
            return {
                key: copy(item, (*path, str(key)))
                for key, item in value.items()
                if (*path, str(key)) not in drop
            }
        if isinstance(value, list | tuple):
            return [
                copy(item, (*path, str(i)))
                for i, item in enumerate(value)
                if (*path, str(i)) not in drop
            ]
        return value

    return copy(data, ())
