"""What SQLite and PostgreSQL say differently: time, JSON, rows that may be there."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
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
"""Seconds since 1970 by the database's clock, as an SQL expression.

One clock serves every process of a study.
"""


class _JsonNumber(FunctionElement[float]):
    name = "evomerge_json_number"
    type = sa.Double()
    inherit_cache = True


@compiles(_JsonNumber, "sqlite")
def _sqlite_number(element: _JsonNumber, compiler: Any, **how: Any) -> str:
    text, key = (compiler.process(one, **how) for one in element.clauses)
    path = f"'$.' || {key}"
    is_number = f"json_type({text}, {path}) IN ('integer', 'real')"
    found = f"CASE WHEN {is_number} THEN json_extract({text}, {path}) END"
    return f"(CASE WHEN json_valid({text}) THEN {found} END)"


@compiles(_JsonNumber, "postgresql")
def _postgresql_number(element: _JsonNumber, compiler: Any, **how: Any) -> str:
    # Read as text: what is no JSON would end the transaction. Ours is canonical.
    text, key = (compiler.process(one, **how) for one in element.clauses)
    number = "'\":(-?[0-9]{1,200}(?:[.][0-9]+)?(?:[eE][+-]?[0-9]{1,2})?)[,}]'"
    pattern = f"'^[{{].*?\"' || {key} || {number}"
    # A single percent sign is the driver's; there is none here.
    return f"CAST(substring({text} from {pattern}) AS double precision)"


def json_number(text: sa.ColumnElement[str], key: str) -> sa.ColumnElement[float]:
    """Return the number under a key of a flat JSON object of ours, as SQL.

    Null where there is none, whatever the text is.
    """
    return _JsonNumber(text, sa.literal_column(f"'{key}'"))


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
        from sqlalchemy.dialects import sqlite

        statement = sqlite.insert(table).on_conflict_do_nothing()
        return statement.values(**clock) if clock else statement
    from sqlalchemy.dialects import postgresql  # takes a tenth of a second to load

    insert = postgresql.insert(table).on_conflict_do_nothing()
    return insert.values(**clock) if clock else insert
