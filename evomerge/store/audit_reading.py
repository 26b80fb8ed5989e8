"""Read rows that somebody may have changed: what cannot be read is a fault."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from evomerge.errors import EvomergeError
from evomerge.store.values import Fault

_T = TypeVar("_T")
# What decoders raise at data of a shape that this package never wrote.
_UNREADABLE = (EvomergeError, LookupError, TypeError, ValueError, AttributeError)


def legible(where: str, read: Callable[[], _T]) -> _T | Fault:
    """Return what ``read`` returns, or that it is not what was written.

    Args:
        where: Names what is read.
        read: Decodes it.
    """
    try:
        return read()
    except _UNREADABLE as error:
        return Fault(where, f"cannot be read: {str(error) or type(error).__name__}")
