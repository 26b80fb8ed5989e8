"""All that knows which database is behind the tables: SQLite.

Portable SQL is written elsewhere; how transactions begin, what the clock is called,
how a row is inserted if absent and what a driver's complaint means stand here.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects.sqlite import insert as sqlite_insert
from sqlalchemy.exc import DBAPIError

from evomerge.errors import SchemaError, StoreError
from evomerge.store.schema import APPLICATION, VERSION, meta, metadata
from evomerge.store.url import mask, sqlite_path

_BUSY_MS = 30_000
_MAGIC = b"SQLite format 3\x00"
_WRITES = "evomerge_writes"

_COMPLAINTS = {
    "readonly": "it is read-only; make the file and its folder writable",
    "disk is full": "no space is left; free some and run the command again, "
    "nothing recorded is lost",
    "locked": f"another process kept it busy for over {_BUSY_MS // 1000} s; "
    "try again when that one is done",
    "malformed": "the file is damaged; restore it from a copy",
    "not a database": "the file is no SQLite database",
    "unable to open": "the file cannot be opened; check its path and permissions",
    "disk i/o": "the disk reported an error; check it before going on",
}


NOW: sa.ColumnElement[float] = (
    sa.func.julianday("now", type_=sa.Double) - 2440587.5
) * 86400.0
"""Seconds since 1970 by the database's clock, as an SQL expression."""


def insert_absent(
    connection: sa.Connection, table: sa.Table, *rows: Mapping[str, Any]
) -> None:
    """Insert rows, leaving alone those whose key is taken.

    Columns named ``at`` and ``created`` get the database's time.
    """
    if rows:
        connection.execute(_absent_insert(table), list(rows))


@cache
def _absent_insert(table: sa.Table) -> sa.Insert:
    statement = sqlite_insert(table).on_conflict_do_nothing()
    clock = {name: NOW for name in ("at", "created") if name in table.c}
    return statement.values(**clock) if clock else statement


class Database:
    """An open database of the current schema."""

    def __init__(self, url: str, *, create: bool) -> None:
        """Open the database, making the tables in a new file.

        Args:
            url: Where it is.
            create: Make the file if it does not exist.

        Raises:
            StoreError: The URL or file cannot be used; says why.
            SchemaError: The file is not ours, or of an incompatible version.
        """
        self.shown = mask(url)
        path = sqlite_path(url)
        _check_file(path, self.shown, create=create)
        self._engine = _engine(path)
        try:
            self._prepare()
        except BaseException:
            self._engine.dispose()
            raise

    def __repr__(self) -> str:
        return f"Database({self.shown!r})"

    def close(self) -> None:
        """Close every connection; idempotent."""
        self._engine.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a snapshot of what is committed; takes no lock that others feel."""
        with self._translated(), self._engine.begin() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give one transaction that is the only writer from its first statement on.

        The lock comes first, so what a transaction read cannot have changed when it
        writes. It commits at the end of the block, or not at all.
        """
        with self._translated(), self._engine.connect() as plain:
            connection = plain.execution_options(**{_WRITES: True})
            with connection.begin():
                yield connection

    @contextmanager
    def _translated(self) -> Iterator[None]:
        try:
            yield
        except DBAPIError as error:
            # The full text would show statement and values.
            raise self._explained(str(error.orig)) from error
        except sqlite3.Error as error:
            raise self._explained(str(error)) from error

    def _explained(self, said: str) -> StoreError:
        for word, meaning in _COMPLAINTS.items():
            if word in said.lower():
                kind = SchemaError if word == "not a database" else StoreError
                return kind(f"Database {self.shown}: {meaning}.")
        return StoreError(f"Database {self.shown}: {said}.")

    def _prepare(self) -> None:
        with self.reading() as connection:
            is_new = self._is_new(connection)
        if is_new:
            self._use_wal()
            with self.writing() as connection:
                if self._is_new(connection):  # nobody was faster
                    _create_tables(connection)
        with self.reading() as connection:
            self._check_version(connection)

    def _is_new(self, connection: sa.Connection) -> bool:
        tables = sa.inspect(connection).get_table_names()
        if tables and meta.name not in tables:
            raise SchemaError(
                f"Database {self.shown} holds other tables ({', '.join(tables[:5])}) "
                "and none of evomerge's; name another file."
            )
        return not tables

    def _check_version(self, connection: sa.Connection) -> None:
        facts = connection.execute(sa.select(meta.c.key, meta.c.value)).all()
        found = {row.key: row.value for row in facts}
        if found.get("application") != APPLICATION:
            raise SchemaError(f"Database {self.shown} is not one of evomerge's.")
        version = found.get("schema_version", "")
        if version != str(VERSION):
            raise SchemaError(
                f"Database {self.shown} has schema version {version!r}, this evomerge "
                f"reads version {VERSION}; use the version of evomerge that wrote it."
            )

    def _use_wal(self) -> None:
        """Turn on the write-ahead log, a property the file keeps.

        The switch needs the file alone and does not wait for its turn by itself.
        """
        deadline = time.monotonic() + _BUSY_MS / 1000
        with self._translated(), self._engine.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            while True:
                try:
                    mode = driver.execute("PRAGMA journal_mode").fetchone()[0]
                    if mode != "wal":
                        driver.execute("PRAGMA journal_mode=WAL")
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    time.sleep(0.01)


def _engine(path: Path) -> sa.Engine:
    engine = sa.create_engine(
        sa.URL.create("sqlite", database=str(path)),
        connect_args={"timeout": _BUSY_MS / 1000},
    )

    @sa.event.listens_for(engine, "connect")
    def configure(driver: sqlite3.Connection, _record: object) -> None:
        driver.isolation_level = None  # the driver must not begin by itself
        driver.execute(f"PRAGMA busy_timeout={_BUSY_MS}")
        driver.execute("PRAGMA synchronous=FULL")
        driver.execute("PRAGMA foreign_keys=ON")

    @sa.event.listens_for(engine, "begin")
    def begin(connection: sa.Connection) -> None:
        writes = connection.get_execution_options().get(_WRITES, False)
        connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")

    return engine


def _check_file(path: Path, shown: str, *, create: bool) -> None:
    folder = path.parent
    if not folder.is_dir():
        raise StoreError(
            f"Database {shown}: the folder {str(folder)!r} does not exist; create it "
            "or name another file."
        )
    if not path.exists():
        if not create:
            raise StoreError(
                f"Database {shown}: there is no such file; check --db and EVOMERGE_DB."
            )
        return
    if not path.is_file():
        raise StoreError(f"Database {shown}: {str(path)!r} is not a file.")
    try:
        with path.open("rb") as file:
            start = file.read(len(_MAGIC))
    except OSError as error:
        raise StoreError(
            f"Database {shown}: the file cannot be read ({error.strerror})."
        ) from error
    if start and start != _MAGIC:
        raise SchemaError(
            f"Database {shown}: the file is no SQLite database; it was left as it is. "
            "Name another file."
        )


def _create_tables(connection: sa.Connection) -> None:
    metadata.create_all(connection)
    connection.execute(
        sa.insert(meta),
        [
            {"key": "application", "value": APPLICATION},
            {"key": "schema_version", "value": str(VERSION)},
        ],
    )
