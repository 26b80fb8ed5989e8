"""A memo to test operators with."""

from collections.abc import Callable
from typing import Any, TypeVar

from evomerge.core.operators.derived import Derived

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
        self, kind: Derived, what: tuple[str | None, ...], compute: Callable[[], Value]
    ) -> Value:
        """Return what is kept under this name, computing it the first time."""
        name = (" ".join(map(str, (kind.name, *kind.of))), *what)
        if name not in self._kept:
            self._kept[name] = compute()
            self.computed.append(name)
        kept: Value = self._kept[name]
        return kept
