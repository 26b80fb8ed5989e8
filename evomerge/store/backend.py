"""What differs between databases: how they are opened and what they complain of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from evomerge.errors import StoreError
from evomerge.masking import masked_url
from evomerge.store.url import file_of, parse

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


def backend(url: str) -> Backend:
    """Choose the backend of a URL.

    Raises:
        StoreError: The URL cannot be used, or its driver is not installed.
    """
    parsed = parse(url)
    shown = masked_url(url)
    if parsed.get_backend_name() == "sqlite":
        from evomerge.store.sqlite import Sqlite

        return Sqlite(file_of(parsed), shown)
    from evomerge.store.postgres import Postgres

    try:
        return Postgres(parsed, shown)
    except ModuleNotFoundError as error:
        raise StoreError(
            "PostgreSQL needs a driver that is not installed: "
            "pip install 'evomerge[postgres]'."
        ) from error
