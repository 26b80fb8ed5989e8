"""How often something is measured: a noisy machine, and merges of minutes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Patience:
    """How often something is measured.

    Attributes:
        rounds: At most so often.
        seconds: Not again once this much time was spent.
    """

    rounds: int
    seconds: float

    def wants(self, rounds: int, seconds: float) -> bool:
        """Tell whether to measure once more."""
        return rounds == 0 or (rounds < self.rounds and seconds < self.seconds)
