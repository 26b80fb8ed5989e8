"""Kinds of databases: what differs between them, and the URLs that name them.

No message about a URL shows its secrets.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError

from evomerge.errors import StoreError
from evomerge.masking import masked_url

BUSY_S = 30
"""How long a transaction waits for another one before it gives up."""


class Backend(Protocol):
    """One kind of database.

    Attributes:
        shown: The URL without its secrets.
        writer: Transactions of this engine may write.
        reader: Transactions of this engine see one snapshot, and wait for nobody.
    """

    shown: str
    writer: sa.Engine
    reader: sa.Engine

    def check(self, *, create: bool) -> None:
        """Refuse what cannot be used, before it is touched.

        Raises:
            StoreError: Says why.
        """

    def ready(self) -> None:
        """Make a new database ready for its tables."""

    def lock(self, connection: sa.Connection) -> None:
        """Keep every other process from changing the tables in this transaction."""

    def is_strange(self, tables: Sequence[str]) -> bool:
        """Tell whether others' tables mean that the database is not for us."""

    def explain(self, error: Exception) -> StoreError:
        """Put a driver's complaint into words, without its secrets."""

    def back_up(self, label: str) -> Path | None:
        """Copy the database beside itself, if that is one file; return the copy."""


_EXAMPLE = (
    "for example sqlite:///evomerge.db, sqlite:////data/evomerge.db or "
    "postgresql://user@host/database"
)
_POSTGRES = ("postgresql", "postgres")
_DRIVER = "postgresql+psycopg"


def parse(url: str) -> sa.URL:
    """Read a database URL.

    Returns:
        A URL of SQLite with a plain file, or of PostgreSQL with its driver.

    Raises:
        StoreError: Not a URL, another kind of database, or not a usable file.
    """
    shown = masked_url(url)
    try:
        parsed = sa.make_url(url)
    except (ArgumentError, ValueError):
        parsed = None
    if parsed is None:
        raise StoreError(f"{shown!r} is not a database URL; give {_EXAMPLE}.")
    kind, _, driver = parsed.drivername.partition("+")
    if kind == "sqlite":
        _check_file_url(parsed, shown)
        return parsed
    if kind not in _POSTGRES:
        raise StoreError(
            f"Studies are kept in SQLite or PostgreSQL, but {shown!r} names "
            f"{kind!r}; give {_EXAMPLE}."
        )
    if driver not in ("", "psycopg"):
        raise StoreError(
            f"PostgreSQL is spoken to through psycopg, but {shown!r} names the "
            f"driver {driver!r}; leave it out."
        )
    if "@" in (parsed.host or ""):
        raise StoreError(
            f"{shown!r} holds more than one @. In a password write %40 for @, %2F "
            "for / and %25 for %; or leave it out and use PGPASSWORD or ~/.pgpass."
        )
    if not parsed.database:
        raise StoreError(f"{shown!r} does not name a database; give {_EXAMPLE}.")
    return parsed.set(drivername=_DRIVER)


def file_of(url: sa.URL) -> Path:
    """Return the file an SQLite URL names."""
    return Path(url.database or "")


def _check_file_url(parsed: sa.URL, shown: str) -> None:
    if parsed.query or parsed.host or not parsed.database:
        raise StoreError(f"{shown!r} does not name a plain file; give {_EXAMPLE}.")
    if parsed.database == ":memory:":
        raise StoreError(f"A study must survive its process; give {_EXAMPLE}.")
