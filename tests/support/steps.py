"""Steps of the hot path, for tests that stop a process between any two of them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from evomerge.store.tables.prepared import Prepared


def step_at_prepared(step: Callable[[], None]) -> None:
    """Call ``step`` before and after every prepared statement of this process.

    These run past SQLAlchemy, whose events do not tell of them.
    """
    run = Prepared.__call__

    def stepping(self: Prepared, connection: Any, parameters: Mapping[str, Any]) -> Any:
        step()
        found = run(self, connection, parameters)
        step()
        return found

    Prepared.__call__ = stepping  # type: ignore[method-assign]
