"""PostgreSQL, through psycopg 3: many machines, one database."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.exc import ArgumentError, DBAPIError

from evomerge.errors import StoreError, StoreUnreachableError
from evomerge.store.databases.backend import BUSY_S

# Each session asks for what the store promises, whatever the server's defaults are.
_SESSION = {
    "synchronous_commit": "on",
    "lock_timeout": f"{BUSY_S}s",
    # A coordinator that was frozen inside a transaction must not block its heir.
    "idle_in_transaction_session_timeout": "60s",
}
# A cut cable is noticed in about a minute, not in the system's two hours.
_CONNECTION = {
    "application_name": "evomerge",
    "connect_timeout": "10",
    "keepalives_idle": "20",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
_SCHEMA_LOCK = 0x65766F6D65726765
"""Key of the advisory lock under which tables are changed."""

_AWAY = frozenset(
    # Shut down, crashed, starting up; too many clients; deadlock, conflict, waited
    # too long for a lock; a frozen transaction that was ended.
    ["57P01", "57P02", "57P03", "57P05", "53300", "40P01", "40001", "55P03", "25P03"]
)
_REFUSED = {
    "password authentication failed": "the password was refused; check the user and "
    "password in the URL, PGPASSWORD or ~/.pgpass",
    "no password supplied": "it wants a password; put it into the URL, PGPASSWORD or "
    "~/.pgpass",
    "pg_hba.conf": "the server does not let this user or machine in",
    "peer authentication failed": "the server does not let this user or machine in",
    'role "': "there is no such user; create it, or name another one",
    'database "': "there is no such database; create it with createdb, or name another",
}
_COMPLAINTS = {
    "53100": "no space is left; free some and run the command again, nothing recorded "
    "is lost",
    "25006": "it is read-only (a standby server?); name the one that takes writes",
    "42501": "the user lacks rights; grant it CREATE and USAGE on the schema and all "
    "rights on the tables named em_*, or USAGE and SELECT if it is only to look",
}


class Postgres:
    """A ``Backend`` over a server."""

    def __init__(self, url: sa.URL, shown: str) -> None:
        self.shown = shown
        settings = " ".join(f"-c {key}={value}" for key, value in _SESSION.items())
        given = url.query.get("options", "")
        options = f"{given} {settings}" if isinstance(given, str) else settings
        arguments: dict[str, Any] = {"options": options.strip()}
        arguments |= {k: v for k, v in _CONNECTION.items() if k not in url.query}
        try:
            self.writer: sa.Engine = sa.create_engine(
                url, connect_args=arguments, isolation_level="READ COMMITTED"
            )
        except ArgumentError as error:
            raise StoreError(f"Database {shown}: {error}.") from error
        self.reader: sa.Engine = self.writer.execution_options(
            isolation_level="REPEATABLE READ"
        )

    def check(self, *, create: bool) -> None:
        """Nothing to look at before connecting."""

    def ready(self) -> None:
        """Nothing to do."""

    def lock(self, connection: sa.Connection) -> None:
        """Wait until no other process changes tables; held to the end."""
        connection.execute(sa.select(sa.func.pg_advisory_xact_lock(_SCHEMA_LOCK)))

    def is_strange(self, tables: Sequence[str]) -> bool:
        """Others may have tables here; only our prefix without our mark is strange."""
        return any(name.startswith("em_") for name in tables)

    def explain(self, error: Exception) -> StoreError:
        """Put a complaint of PostgreSQL into words."""
        where = f"Database {self.shown}"
        cause = getattr(error, "orig", None) or error
        state = getattr(cause, "sqlstate", None) or ""
        said = str(cause).strip().partition("\n")[0]
        if state in _COMPLAINTS:
            return StoreError(f"{where}: {_COMPLAINTS[state]}. It said: {said}")
        is_cut = isinstance(error, DBAPIError) and error.connection_invalidated
        if state in _AWAY or state.startswith("08") or is_cut:
            return _away(where, said)
        if not state and isinstance(error, sa.exc.OperationalError):
            for words, meaning in _REFUSED.items():
                if words in said and ('"' not in words or "does not exist" in said):
                    return StoreError(f"{where}: {meaning}. It said: {said}")
            return _away(where, said)
        return StoreError(f"{where}: {said}")

    def back_up(self, label: str) -> Path | None:
        """Return None: a server is copied with its own tool, pg_dump."""
        del label
        return None


def _away(where: str, said: str) -> StoreUnreachableError:
    return StoreUnreachableError(
        f"{where} does not answer; start the server, or check host and port. What it "
        f"had confirmed is kept. It said: {said}"
    )
