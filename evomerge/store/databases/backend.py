"""What differs between databases: how they are opened and what they complain of."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

import sqlalchemy as sa

from evomerge.errors import StoreError

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
