"""An open database: snapshots, transactions, and a schema that is the present one."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from sqlalchemy.exc import DBAPIError

from evomerge import extras
from evomerge.errors import SchemaError, StoreError
from evomerge.masking import masked_url
from evomerge.store.databases.backend import Backend, file_of, parse
from evomerge.store.tables.dialects import NOW
from evomerge.store.tables.schema import (
    VERSIONS,
    migrate,
    present_version,
    recorded_version,
)


@dataclass(frozen=True, slots=True)
class Upgraded:
    """What an upgrade did.

    Attributes:
        before: Schema version found.
        after: Schema version now.
        copy: The copy made first; None where there is none to make.
    """

    before: str
    after: str
    copy: Path | None


class _Line:
    """One connection, kept between transactions: fetching one costs as much as a query.

    After any error it is given up, and the next transaction gets a fresh one.
    """

    def __init__(self, engine: sa.Engine) -> None:
        self._engine = engine
        self._connection: sa.Connection | None = None

    @contextmanager
    def transaction(self) -> Iterator[sa.Connection]:
        """Give a transaction that commits at the end of the block."""
        if self._connection is None:
            self._connection = self._engine.connect()
        try:
            with self._connection.begin():
                yield self._connection
        except BaseException:
            self.hang_up()
            raise

    def hang_up(self) -> None:
        """Close the connection, if there is one."""
        if self._connection is not None:
            connection, self._connection = self._connection, None
            connection.close()


class Database:
    """An open database of the present schema."""

    def __init__(self, url: str, *, create: bool) -> None:
        """Open the database, making the tables where there are none.

        Args:
            url: Where it is.
            create: Make file and tables if they do not exist.

        Raises:
            StoreError: The URL, file or server cannot be used; says why.
            StoreUnreachableError: The server does not answer.
            SchemaError: The database is not ours, or of another version.
        """
        self._backend = backend(url)
        self._backend.check(create=create)
        self._reader = _Line(self._backend.reader)
        self._writer = _Line(self._backend.writer)
        try:
            self._prepare(create=create)
        except BaseException:
            self.close()
            raise

    @property
    def shown(self) -> str:
        """The URL without its secrets."""
        return self._backend.shown

    def __repr__(self) -> str:
        return f"Database({self.shown!r})"

    def close(self) -> None:
        """Close every connection; idempotent."""
        for line in (self._reader, self._writer):
            line.hang_up()
        self._backend.reader.dispose()
        self._backend.writer.dispose()

    @contextmanager
    def reading(self) -> Iterator[sa.Connection]:
        """Give a snapshot of what is committed; takes no lock that others feel."""
        with explained(self._backend), self._reader.transaction() as connection:
            yield connection

    @contextmanager
    def writing(self) -> Iterator[sa.Connection]:
        """Give one transaction: it commits at the end of the block, or not at all.

        On SQLite it is the only writer from its beginning on. On PostgreSQL it must
        lock the rows it decides by: the study's first, then trial and recipe.
        """
        with explained(self._backend), self._writer.transaction() as connection:
            yield connection

    def seconds(self) -> float:
        """Return the database's clock, seconds since 1970."""
        with self.reading() as connection:
            return float(connection.scalar(sa.select(NOW)) or 0.0)

    def check(self) -> None:
        """Make sure that nobody has brought the database to another schema meanwhile.

        Raises:
            SchemaError: Somebody has.
        """
        with self.reading() as connection:
            version = present_version(connection)
        if version != VERSIONS[-1]:
            raise _other_version(self.shown, str(version))

    def _prepare(self, *, create: bool) -> None:
        with self.reading() as connection:
            version = _version(connection, self._backend)
        if version is None:
            if not create:
                raise SchemaError(
                    f"Database {self.shown} holds no study yet: it has no tables of "
                    "evomerge's; check --db and EVOMERGE_DB."
                )
            version = self._make()
        if version != VERSIONS[-1]:
            raise _other_version(self.shown, version)

    def _make(self) -> str:
        self._backend.ready()
        with self.writing() as connection:
            self._backend.lock(connection)
            found = _version(connection, self._backend)
            if found is not None:  # somebody was faster
                return found
            migrate(connection, None)
        return VERSIONS[-1]


def upgrade(url: str) -> Upgraded:
    """Bring a database to the present schema, after making a copy where it is a file.

    Raises:
        StoreError: It cannot be used, or a study in it is being run.
        SchemaError: It is not ours, or newer than this evomerge.
    """
    place = backend(url)
    place.check(create=False)
    try:
        with explained(place), place.reader.begin() as connection:
            before = _version(connection, place)
        if before is None:
            raise SchemaError(f"Database {place.shown} holds no tables of evomerge's.")
        if before not in VERSIONS:
            raise _other_version(place.shown, before)
        if before == VERSIONS[-1]:
            return Upgraded(before, before, None)
        with explained(place):
            copy = place.back_up(f"before-{VERSIONS[-1]}")
            with place.writer.begin() as connection:
                place.lock(connection)
                if _version(connection, place) == before:
                    _refuse_running(connection, place.shown)
                    migrate(connection, before)
        return Upgraded(before, VERSIONS[-1], copy)
    finally:
        place.reader.dispose()
        place.writer.dispose()


@contextmanager
def explained(place: Backend) -> Iterator[None]:
    """Turn a driver's complaints into words a person can act on."""
    try:
        yield
    except (DBAPIError, sqlite3.Error) as error:
        # The full text would show statement and values.
        raise place.explain(error) from error


def _version(connection: sa.Connection, place: Backend) -> str | None:
    """Read the version; None if the database is free for our tables."""
    tables = sa.inspect(connection).get_table_names()
    version = recorded_version(connection, tables)
    if version is None and place.is_strange(tables):
        raise SchemaError(
            f"Database {place.shown} is not one of evomerge's: it holds other tables "
            f"({', '.join(sorted(tables)[:5])}). It was left as it is; name another."
        )
    return version


def _other_version(shown: str, version: str) -> SchemaError:
    if version in VERSIONS:
        return SchemaError(
            f"Database {shown} has schema {version}, this evomerge uses "
            f"{VERSIONS[-1]}; run `evomerge db upgrade --db URL` once."
        )
    return SchemaError(
        f"Database {shown} has schema {version}, this evomerge knows none after "
        f"{VERSIONS[-1]}: it was written by a newer version of evomerge; install that."
    )


def _refuse_running(connection: sa.Connection, shown: str) -> None:
    """An evomerge of the old version at work would write what no longer fits."""
    names = list(
        connection.scalars(
            sa.text("SELECT name FROM em_study WHERE lease_until > :now"),
            {"now": connection.scalar(sa.select(NOW))},
        )
    )
    if names:
        raise StoreError(
            f"Database {shown}: {', '.join(names)} may be running, with the version of "
            "evomerge that wrote it. Stop it first, or wait a minute, and run the "
            "command again."
        )


def backend(url: str) -> Backend:
    """Choose the backend of a URL.

    Raises:
        StoreError: The URL cannot be used.
        NotInstalledError: Its driver is not installed.
    """
    parsed = parse(url)
    shown = masked_url(url)
    if parsed.get_backend_name() == "sqlite":
        from evomerge.store.databases.sqlite import Sqlite

        return Sqlite(file_of(parsed), shown)
    from evomerge.store.databases.postgres import Postgres

    with extras.named():
        return Postgres(parsed, shown)
