"""The time by the database's clock: one clock for every process of a study."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.functions import FunctionElement


class _Now(FunctionElement[float]):
    name = "evomerge_now"
    type = sa.Double()
    inherit_cache = True


@compiles(_Now, "sqlite")
def _sqlite(element: _Now, compiler: Any, **_: Any) -> str:
    del element, compiler
    return "((julianday('now') - 2440587.5) * 86400.0)"


@compiles(_Now, "postgresql")
def _postgresql(element: _Now, compiler: Any, **_: Any) -> str:
    # Not now(): that is when the transaction began, maybe before it waited for a lock.
    del element, compiler
    return "CAST(extract(epoch FROM clock_timestamp()) AS double precision)"


NOW: sa.ColumnElement[float] = _Now()
"""Seconds since 1970 by the database's clock, as an SQL expression."""
