"""What stands in a database, taken for what it is: anybody may have changed it.

SQLite lets any value into any column. A row is held to the types of its table and JSON
to its bounds before anything is made of them; what nobody wrote is damage, and told so.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Callable
from functools import lru_cache, wraps
from typing import Any, TypeVar

import sqlalchemy as sa

from evomerge.checkpoints.documents import parse_json
from evomerge.errors import EvomergeError, StoreError
from evomerge.store.values import Fault

MAX_TEXT = 32 << 20
"""Longest packed JSON, in bytes: the outcomes of 400 000 items have such a one."""

UNREADABLE = (EvomergeError, LookupError, TypeError, ValueError, AttributeError)
"""What decoders raise at data of a shape that this package never wrote."""

_T = TypeVar("_T")


class DamagedRowError(StoreError):
    """A row holds what was never written; the cause says what."""


def decoder(
    what: str, table: sa.Table | None = None
) -> Callable[[Callable[[Any], _T]], Callable[[Any], _T]]:
    """Make a function that reads a row refuse what was never written.

    Args:
        what: Names in messages what is read.
        table: Whose row it is; every column that the row has is checked.
    """

    def wrap(read: Callable[[Any], _T]) -> Callable[[Any], _T]:
        @wraps(read)
        def checked(row: Any) -> _T:
            try:
                if table is not None:
                    _check(row, table)
                return read(row)
            except (*UNREADABLE, OverflowError) as error:
                if isinstance(error, StoreError):
                    raise
                raise DamagedRowError(str(damaged(what, error))) from error

        return checked

    return wrap


def damaged(what: str, error: Exception) -> StoreError:
    """Return the error for something that cannot be read."""
    return StoreError(
        f"{what} in the database cannot be read ({error}); the file is damaged, "
        "restore it from a copy."
    )


def count(what: str, value: Any) -> int:
    """Read a whole number from 0 up, alone; nothing counts as none.

    Raises:
        StoreError: It is something else.
    """
    if value is None:
        return 0
    if type(value) is not int or value < 0:
        raise damaged(what, TypeError(f"it is {value!r:.60}"))
    return value


def from_text(what: str, text: str) -> Any:
    """Read JSON text that this package wrote.

    Raises:
        StoreError: It is something else.
    """
    try:
        return parse_json(text.encode())
    except ValueError as error:
        raise damaged(what, error) from error


def mapping(what: str, text: str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        StoreError: It is something else.
    """
    value = from_text(what, text)
    if not isinstance(value, dict):
        raise damaged(what, TypeError(f"expected an object, got {value!r:.60}"))
    return value


def numbers(what: str, text: str | None) -> dict[str, float] | None:
    """Read a JSON object of numbers; nothing where nothing is written.

    Raises:
        StoreError: It is something else.
    """
    if text is None:
        return None
    value = mapping(what, text)
    for name, number in value.items():
        if type(number) is not float and not is_number(number):  # a float is finite
            raise damaged(what, TypeError(f"{name} is {number!r:.60}, not a number"))
    return value


def is_number(value: Any) -> bool:
    """Tell whether a value of JSON is a number that a float can hold."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return abs(value) <= _LARGEST


def unpack(what: str, body: bytes) -> Any:
    """Read compressed canonical JSON.

    Raises:
        StoreError: The bytes are damaged, or unfold to more than ``MAX_TEXT``.
    """
    try:
        reader = zlib.decompressobj()
        text = reader.decompress(body, MAX_TEXT)
        if not reader.eof:
            raise ValueError(f"it is cut short, or longer than {MAX_TEXT} bytes")
        return parse_json(text)
    except (zlib.error, ValueError) as error:
        raise damaged(what, error) from error


_LARGEST = 1.7976931348623157e308


def _check(row: Any, table: sa.Table) -> None:
    checks = _checks(table, row._fields)
    for value, (name, kinds, nullable) in zip(row, checks, strict=True):
        if kinds is None or (value is None and nullable):
            continue
        if not isinstance(value, kinds) or value in _INFINITE:
            raise TypeError(f"{name} is {value!r:.60}")


_INFINITE = frozenset((math.inf, -math.inf))
_Check = tuple[str, tuple[type, ...] | None, bool]


@lru_cache
def _checks(table: sa.Table, fields: tuple[str, ...]) -> tuple[_Check, ...]:
    """Return name, types and nullability of a row's fields; no types of others'."""

    def kinds(column: sa.Column[Any]) -> tuple[type, ...]:
        kind = column.type.python_type
        return (int, float) if kind is float else (kind,)

    own = {c.name: (kinds(c), bool(c.nullable)) for c in table.columns}
    return tuple((name, *own.get(name, (None, True))) for name in fields)


def legible(where: str, read: Callable[[], _T]) -> _T | Fault:
    """Return what ``read`` returns, or that it is not what was written.

    Args:
        where: Names what is read.
        read: Decodes it.
    """
    try:
        return read()
    except UNREADABLE as error:
        said = error.__cause__ if isinstance(error, DamagedRowError) else error
        return Fault(where, f"cannot be read: {str(said) or type(said).__name__}")
