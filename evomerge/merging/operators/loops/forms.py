"""What a merge in one pass is asked for: a sum, or an election."""

from collections.abc import Sequence
from typing import Protocol


class Total(Protocol):
    """How inputs are added up."""

    @property
    def factors(self) -> Sequence[float]:
        """One per input."""

    @property
    def divisor(self) -> float:
        """What the sum is divided by."""

    @property
    def scale(self) -> float:
        """Factor on that."""


class Ballot(Protocol):
    """How signs are elected and what becomes of those who agree."""

    @property
    def weights(self) -> Sequence[float]:
        """One per input."""

    @property
    def scale(self) -> float:
        """Factor on the merged difference."""

    @property
    def count(self) -> bool:
        """One vote per input instead of the weighted sum."""

    @property
    def plain(self) -> bool:
        """The sum that elects leaves the weights out."""

    @property
    def normalize(self) -> bool:
        """Divide by the weights that agree."""
