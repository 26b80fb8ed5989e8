"""What a value in a task file may be: rules from which the tables of keys are made.

A rule looks at plain data only and says what is wrong; functions, which stand only in
files that may run code, are passed over. The tables are in ``task_keys``.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.scoring.harness.internals import BUILDERS, METRICS
from evomerge.scoring.harness.task_files import FILE_BUILDERS, folder_problem
from evomerge.specs.reading.yamlfile import join


@dataclass(frozen=True, slots=True)
class Complaint:
    """What is wrong at a key; ``code``: only with permission to run code."""

    key: str
    text: str
    code: bool = False


LONGEST_PATH = 200
Rule = Callable[[str, Any], Iterator[Complaint]]
"""Says what is wrong with the value at a key."""


def of(expected: str, holds: Callable[[Any], bool]) -> Rule:
    """Make a rule of a test; ``expected`` names what passes it."""

    def rule(key: str, value: Any) -> Iterator[Complaint]:
        if not holds(value):
            yield Complaint(key, f"expected {expected}, got {value!r:.80}")

    return rule


def one_of(names: frozenset[str], what: str) -> Rule:
    """Make a rule that lets known names pass."""
    return of(
        f"{what} ({', '.join(sorted(names))})",
        lambda value: isinstance(value, str) and value in names,
    )


def is_whole(value: Any) -> bool:
    """Tell whether this is a whole number, and no truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def is_texts(value: Any) -> bool:
    """Tell whether this is a list of texts."""
    return isinstance(value, list) and all(isinstance(part, str) for part in value)


def code(key: str, value: Any) -> Iterator[Complaint]:
    """A function: there is no value of plain data that means anything."""
    yield Complaint(key, f"runs Python code ({value!r:.80})", code=True)


def metric(key: str, value: Any) -> Iterator[Complaint]:
    """One of lm-eval's own metrics; whatever else has a name would be run."""
    if isinstance(value, str) and value not in METRICS:
        known = ", ".join(sorted(METRICS))
        yield Complaint(
            key,
            f"{value!r:.80} is none of lm-eval's own metrics ({known}), so it would be "
            "looked for in files and on the hub, and run as Python code",
            code=True,
        )
    elif not isinstance(value, str):
        yield from TEXT(key, value)


def hub_metric(key: str, value: Any) -> Iterator[Complaint]:
    """``hf_evaluate``: the hub's metric of a name instead of lm-eval's own."""
    if value is not False:
        yield Complaint(key, "runs Python code of the metric's from the hub", code=True)


def unsafe(key: str, value: Any) -> Iterator[Complaint]:
    """``unsafe_code``: what models write is executed."""
    if value is not False:
        said = "executes code that models write (unsafe_code); it can do harm"
        yield Complaint(key, said, code=True)


def dataset(key: str, value: Any) -> Iterator[Complaint]:
    """A kind of plain data files, a hub's data set, or a folder of plain data files."""
    if not isinstance(value, str) or not 0 < len(value) <= LONGEST_PATH:
        yield Complaint(key, f"expected a kind of data files, got {value!r:.80}")
    elif value in FILE_BUILDERS:
        return
    elif value in BUILDERS or value.endswith(".py"):
        kinds = ", ".join(FILE_BUILDERS)
        said = f"{value!r:.80} may run Python code; plain data are {kinds} and hub ids"
        yield Complaint(key, said, code=True)
    elif Path(value).is_dir():
        if problem := folder_problem(Path(value)):
            yield Complaint(key, problem, code="code" in problem)
    elif not re.fullmatch(r"[\w.-]+(/[\w.-]+)?", value):
        yield Complaint(
            key,
            f"expected a kind of data files, a folder or a hub id, got {value!r:.80}",
        )


def data_files(key: str, value: Any) -> Iterator[Complaint]:
    """Names of files, for each split or for all; no chains of file systems."""
    if isinstance(value, Mapping | list):
        parts = value.items() if isinstance(value, Mapping) else enumerate(value)
        for name, part in parts:
            yield from data_files(join(key, name), part)
    elif (
        not isinstance(value, str)
        or not 0 < len(value) <= LONGEST_PATH
        or "\0" in value
    ):
        yield Complaint(key, f"expected the name of a file, got {value!r:.80}")
    elif "::" in value or re.match(r"(?!(https?|hf)://)[\w.+-]+://", value):
        yield Complaint(
            key, f"expected a file, or a link with https:// or hf://, got {value!r:.80}"
        )


def pattern(key: str, value: Any) -> Iterator[Complaint]:
    """A regular expression."""
    if not isinstance(value, str):
        yield from TEXT(key, value)
        return
    try:
        re.compile(value)
    except (re.error, OverflowError, RecursionError) as error:
        yield Complaint(key, f"{value!r:.80} is no regular expression: {error}")


def patterns(key: str, value: Any) -> Iterator[Complaint]:
    """A list of regular expressions."""
    if not isinstance(value, list):
        yield Complaint(key, f"expected a list of patterns, got {value!r:.80}")
        return
    for index, part in enumerate(value):
        yield from pattern(join(key, index), part)


def inside(table: Mapping[str, Rule], other: Rule | None = None) -> Rule:
    """A mapping with these keys, and perhaps others that all keep to one rule."""

    def rule(key: str, value: Any) -> Iterator[Complaint]:
        if not isinstance(value, Mapping):
            yield Complaint(key, f"expected a mapping, got {value!r:.80}")
            return
        for name, part in value.items():
            here = table.get(name, other)
            if here is None:
                known = ", ".join(table)
                yield Complaint(join(key, name), f"is no key here; known are {known}")
            elif part is not None and not callable(part):
                yield from here(join(key, name), part)

    return rule


def each(rule: Rule) -> Rule:
    """A list whose members keep to a rule."""

    def rule_of_all(key: str, value: Any) -> Iterator[Complaint]:
        if not isinstance(value, list):
            yield Complaint(key, f"expected a list, got {value!r:.80}")
            return
        for index, part in enumerate(value):
            if not callable(part):
                yield from rule(join(key, index), part)

    return rule_of_all


TEXT = of("text", lambda value: isinstance(value, str))
DATA = of("data", lambda _: True)
FLAG = of("true or false", lambda value: isinstance(value, bool))
COUNT = of("a whole number from 0", lambda v: is_whole(v) and v >= 0)
NUMBER = of(
    "a number", lambda v: isinstance(v, int | float) and not isinstance(v, bool)
)
SOME = of("a whole number from 1 to 1000", lambda v: is_whole(v) and 1 <= v <= 1000)
TEXTS = of("text or a list of texts", lambda v: isinstance(v, str) or is_texts(v))
TEMPLATE = of("a template", lambda v: isinstance(v, str) or is_whole(v))
TARGET = of(
    "a template, a number or a list",
    lambda v: isinstance(v, str | list) or is_whole(v),
)
CHOICES = of(
    "a template, a list or a mapping", lambda v: isinstance(v, str | list | dict)
)
WHOLES = of(
    "a list of whole numbers",
    lambda v: isinstance(v, list) and all(is_whole(part) for part in v),
)
MAPS = of(
    "a list of mappings",
    lambda v: isinstance(v, list) and all(isinstance(part, Mapping) for part in v),
)


def needed(table: Mapping[str, Rule], *names: str, other: Rule | None = None) -> Rule:
    """A mapping as ``inside`` has it, in which some keys must not be missing."""
    whole = inside(table, other)

    def rule(key: str, value: Any) -> Iterator[Complaint]:
        yield from whole(key, value)
        for name in names:
            if isinstance(value, Mapping) and value.get(name) is None:
                yield Complaint(join(key, name), "is missing")

    return rule
