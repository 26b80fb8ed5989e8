"""Insert rows whose key may be taken already, in either database."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from evomerge.store.clock import NOW


def insert_absent(
    connection: sa.Connection, table: sa.Table, *rows: Mapping[str, Any]
) -> None:
    """Insert rows, leaving alone those whose key is taken.

    Columns named ``at`` and ``created`` get the database's time.
    """
    if rows:
        statement = _statement(table, connection.dialect.name)
        connection.execute(statement, list(rows))


@cache
def _statement(table: sa.Table, dialect: str) -> sa.Insert:
    clock = {name: NOW for name in ("at", "created") if name in table.c}
    if dialect == "sqlite":
        statement = sqlite.insert(table).on_conflict_do_nothing()
        return statement.values(**clock) if clock else statement
    insert = postgresql.insert(table).on_conflict_do_nothing()
    return insert.values(**clock) if clock else insert
