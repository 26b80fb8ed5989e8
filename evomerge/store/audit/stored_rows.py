"""Read rows that somebody may have changed: what cannot be read is a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from evomerge.store.tables.decoding import UNREADABLE, DamagedRowError
from evomerge.store.values import Fault

_T = TypeVar("_T")


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
