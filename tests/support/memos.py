"""A memo to test operators with."""

from collections.abc import Callable
from typing import Any, TypeVar

Value = TypeVar("Value")


class CountingMemo:
    """Keeps everything, and lists what had to be computed.

    Attributes:
        computed: Names in the order they were worked out.
    """

    def __init__(self) -> None:
        self.computed: list[tuple[str | None, ...]] = []
        self._kept: dict[tuple[str | None, ...], Any] = {}

    def recall(
        self,
        what: tuple[str | None, ...],
        compute: Callable[[], Value],
        *,
        lasting: bool = True,
    ) -> Value:
        """Return what is kept under this name, computing it the first time."""
        if what not in self._kept:
            self._kept[what] = compute()
            self.computed.append(what)
        kept: Value = self._kept[what]
        return kept
