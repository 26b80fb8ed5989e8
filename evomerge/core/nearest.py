"""The known names nearest to a misspelt one, for messages."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches

_LISTED = 30
"""Most known names that a message lists."""


def nearest(word: object, known: Iterable[str], n: int = 1) -> list[str]:
    """Return up to ``n`` known names that are much like a word, the nearest first."""
    return get_close_matches(str(word), list(known), n)


def suggestion(word: object, known: Iterable[str], before: str = "") -> str:
    """Return a question for the nearest known name, or nothing if none is near.

    Args:
        word: What was written.
        known: The names there are.
        before: What stands before the question, if there is one.
    """
    near = nearest(word, known)
    return f"{before}did you mean {near[0]!r}?" if near else ""


def did_you_mean(word: object, known: Iterable[str]) -> str:
    """Return the end of a sentence that suggests the nearest known name, or lists all.

    Args:
        word: What was written.
        known: The names there are.
    """
    names = sorted(known)
    if said := suggestion(word, names, "; "):
        return said
    return f"; known: {', '.join(names[:_LISTED])}." if names else "."
