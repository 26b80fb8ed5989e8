"""A store whose database goes away, before or after a call went through."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

import numpy as np

from evomerge.errors import StoreUnreachableError
from evomerge.store.base import Store

GONE = "Database shaky: the server does not answer."


class ShakyStore:
    """Passes every call on, but for those at which the database goes away.

    Attributes:
        n_before: Calls that did not reach the database.
        n_after: Calls that did, without their caller learning of it.
    """

    def __init__(
        self,
        store: Store,
        rng: np.random.Generator | None = None,
        share: float = 0.0,
        at: tuple[str, int] | None = None,
        then: Callable[[], None] = lambda: None,
    ) -> None:
        """Wrap a store.

        Args:
            store: What is really called.
            rng: Draws the calls that fail, and whether before or after.
            share: How many fail, from 0 to 1.
            at: A method and which of its calls (from 1) fails, before it goes through.
            then: Called when that call failed.
        """
        self._store = store
        self._rng = rng
        self._share = share
        self._at = at
        self._then = then
        self._n_calls: Counter[str] = Counter()
        self.is_away = False
        self.n_before = 0
        self.n_after = 0

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any, **named: Any) -> Any:
            self._n_calls[name] += 1
            if self._at == (name, self._n_calls[name]):
                self._then()
                raise StoreUnreachableError(GONE)
            luck = 1.0 if self._rng is None else self._rng.random()
            if self.is_away or luck < self._share / 2:
                self.n_before += 1
                raise StoreUnreachableError(GONE)
            found = method(*arguments, **named)
            if luck < self._share:
                self.n_after += 1
                raise StoreUnreachableError(GONE)
            return found

        return call
