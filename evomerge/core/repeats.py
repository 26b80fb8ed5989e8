"""How often a search met the same merge again."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Repeats:
    """How often a search met a merge again.

    Attributes:
        asked: Candidates that a strategy proposed.
        distinct: Different recipes among them.
        share: Share of the candidates that were met before.
    """

    asked: int
    distinct: int
    share: float

    @classmethod
    def of(cls, recipes: Iterable[str]) -> Repeats:
        """Count recipes by their digests, one for each candidate."""
        listed = list(recipes)
        asked, distinct = len(listed), len(set(listed))
        return cls(asked, distinct, 1.0 - distinct / asked if asked else 0.0)

    def __str__(self) -> str:
        return f"{self.asked - self.distinct} of {self.asked} ({self.share:.1%})"
