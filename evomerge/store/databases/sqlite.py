"""SQLite: one local file, a write-ahead log, one writer at a time."""

from __future__ import annotations

import os
import re
import sqlite3
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import sqlalchemy as sa

from evomerge.errors import SchemaError, StoreError, StoreUnreachableError
from evomerge.store.databases.backend import BUSY_S

MOUNTS = Path("/proc/self/mountinfo")
"""What kind of file system a path lies on."""

_NETWORK = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "coda", "gpfs", "lustre", "ncpfs", "nfs"),
        *("nfs4", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
    }
)
_NETWORK_FUSE = frozenset(
    {
        *("ceph", "gcsfuse", "glusterfs", "goofys", "juicefs", "mfs", "rclone"),
        *("s3fs", "seaweedfs", "sshfs"),
    }
)
_ESCAPED = re.compile(r"\\([0-7]{3})")

_MAGIC = b"SQLite format 3\x00"

_COMPLAINTS: dict[str, tuple[type[StoreError], str]] = {
    "readonly": (
        StoreError,
        "it is read-only; make the file and its folder writable",
    ),
    "at rest no more": (
        StoreUnreachableError,
        "it may not be written from here, and somebody else wrote to it just now; run "
        "the command again",
    ),
    "disk is full": (
        StoreError,
        "no space is left; free some and run the command again, nothing recorded is "
        "lost",
    ),
    "locked": (
        StoreUnreachableError,
        f"another process kept it busy for over {BUSY_S} s; try again when that one "
        "is done",
    ),
    "malformed": (StoreError, "the file is damaged; restore it from a copy"),
    "not a database": (SchemaError, "the file is no SQLite database"),
    "unable to open": (
        StoreError,
        "the file cannot be opened; check its path and permissions",
    ),
    "disk i/o": (StoreError, "the disk reported an error; check it before going on"),
}


class _Connection(sqlite3.Connection):
    """A connection that knows how its file was when it was opened as one at rest."""

    rest: tuple[int, ...] | None = None


class Sqlite:
    """A ``Backend`` over one file.

    A write-ahead log wants to be written even by who only looks. So a file that may not
    be written, or lies where nothing may, is opened as one that nobody changes, if it
    has no log; should it change after all, what was read is given up. If it has one,
    somebody is at it or was killed, and the index of the log, beside it, will do.
    """

    def __init__(self, path: Path, shown: str) -> None:
        self.shown = shown
        self._path = path
        self.reader = self._engine("BEGIN")
        # The lock comes first, so what a transaction read cannot change before it
        # writes, and no transaction fails for having begun as a reader.
        self.writer = self._engine("BEGIN IMMEDIATE")

    def check(self, *, create: bool) -> None:
        """Refuse a path that cannot hold a database safely."""
        where = f"Database {self.shown}"
        folder = self._path.parent
        if not folder.is_dir():
            raise StoreError(
                f"{where}: the folder {str(folder)!r} does not exist; create it or "
                "name another file."
            )
        kind = network_kind(folder)
        if kind is not None and self._at_rest() is None:
            raise StoreError(
                f"{where}: {str(folder)!r} is on a network file system ({kind}), where "
                "SQLite can lose what it has confirmed. Name a file on a local disk, "
                "or use PostgreSQL: --db postgresql://user@host/database."
            )
        if not self._path.exists():
            if not create:
                raise StoreError(
                    f"{where}: there is no such file; check --db and EVOMERGE_DB."
                )
            return
        self._check_start(where)
        log = self._beside("-wal")
        if _size(log) and not (self._may_write() or self._beside("-shm").exists()):
            raise StoreError(
                f"{where}: its newest transactions are in {log.name!r}, which cannot "
                "be read where nothing may be written. Copy both files to a folder "
                "that may be written, and look there."
            )

    def ready(self) -> None:
        """Turn on the write-ahead log, a property the file keeps.

        The switch needs the file alone and does not wait for its turn by itself.
        """
        deadline = time.monotonic() + BUSY_S
        with self.reader.connect() as connection:
            driver: Any = connection.connection.dbapi_connection
            while True:
                try:
                    mode = driver.execute("PRAGMA journal_mode").fetchone()[0]
                    if mode != "wal":
                        driver.execute("PRAGMA journal_mode=WAL")
                    _known.add(_key(self._path))
                    return
                except sqlite3.OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise self._explained(str(error)) from error
                    time.sleep(0.01)

    def lock(self, connection: sa.Connection) -> None:
        """Nothing to do: a writing transaction is alone from its beginning."""

    def is_strange(self, tables: Sequence[str]) -> bool:
        """A file is one program's: whoever else has tables in it does not expect us."""
        return bool(tables)

    def explain(self, error: Exception) -> StoreError:
        """Put a complaint of SQLite into words."""
        return self._explained(str(getattr(error, "orig", error)))

    def back_up(self, label: str) -> Path:
        """Copy the file, with what its log still holds."""
        copy = self._path.with_name(f"{self._path.name}.{label}")
        n = 1
        while copy.exists():
            n += 1
            copy = self._path.with_name(f"{self._path.name}.{label}-{n}")
        with self.reader.connect() as connection:
            source: Any = connection.connection.dbapi_connection
            target = sqlite3.connect(copy)
            try:
                source.backup(target)
            except sqlite3.Error as error:
                copy.unlink(missing_ok=True)
                raise self._explained(str(error)) from error
            finally:
                target.close()
        return copy

    def _explained(self, said: str) -> StoreError:
        for word, (kind, meaning) in _COMPLAINTS.items():
            if word in said.lower():
                return kind(f"Database {self.shown}: {meaning}.")
        return StoreError(f"Database {self.shown}: {said}.")

    def _check_start(self, where: str) -> None:
        if not self._path.is_file():
            raise StoreError(f"{where}: {str(self._path)!r} is not a file.")
        try:
            start = _start_of(self._path)
        except OSError as error:
            raise StoreError(
                f"{where}: the file cannot be read ({error.strerror})."
            ) from error
        if start and start != _MAGIC:
            raise SchemaError(
                f"{where}: the file is no SQLite database; it was left as it is. Name "
                "another file."
            )

    def _beside(self, ending: str) -> Path:
        return self._path.with_name(self._path.name + ending)

    def _may_write(self) -> bool:
        return all(os.access(path, os.W_OK) for path in (self._path, self._path.parent))

    def _at_rest(self) -> tuple[int, ...] | None:
        """Return how the file is, if it can only be looked at and nobody is at it."""
        try:
            found = self._path.stat()
        except OSError:
            return None
        is_used = any(_size(self._beside(ending)) for ending in ("-wal", "-journal"))
        if is_used or self._may_write():
            return None
        return found.st_ino, found.st_size, found.st_mtime_ns

    def _connect(self) -> _Connection:
        rest = self._at_rest()
        name = f"file:{quote(str(self._path.absolute()))}"
        driver = sqlite3.connect(
            name if rest is None else f"{name}?immutable=1",
            uri=True,
            timeout=BUSY_S,
            check_same_thread=False,
            factory=_Connection,
        )
        driver.rest = rest
        return driver

    def _refuse_changed(self, driver: _Connection) -> None:
        if driver.rest is not None and driver.rest != self._at_rest():
            raise sqlite3.OperationalError("at rest no more")

    def _engine(self, begin: str) -> sa.Engine:
        engine = sa.create_engine(
            sa.URL.create("sqlite", database=str(self._path)),
            creator=self._connect,
            poolclass=sa.NullPool,  # whoever is given up is not met again
        )

        @sa.event.listens_for(engine, "connect")
        def configure(driver: _Connection, _record: object) -> None:
            driver.isolation_level = None  # the driver must not begin by itself
            driver.execute(f"PRAGMA busy_timeout={BUSY_S * 1000}")
            driver.execute("PRAGMA synchronous=FULL")
            driver.execute("PRAGMA foreign_keys=ON")

        def start(connection: Any) -> None:
            self._refuse_changed(connection.driver_connection)
            connection.driver_connection.execute(begin)

        def finish(connection: Any) -> None:
            self._refuse_changed(connection.driver_connection)
            connection.driver_connection.commit()

        # Not by its "begin" event: an engine that has events pays at every statement.
        engine.dialect.do_begin = start  # type: ignore[assignment, method-assign]
        engine.dialect.do_commit = finish  # type: ignore[assignment, method-assign]
        return engine


def _size(file: Path) -> int:
    return file.stat().st_size if file.exists() else 0


def network_kind(path: Path) -> str | None:
    """Return the kind of network file system a path lies on, None if it is local.

    Where the operating system does not tell (only Linux does), every path counts as
    local.
    """
    kind = _kind(path.resolve())
    if kind is None:
        return None
    name = kind.removeprefix("fuse.")
    networks = _NETWORK_FUSE if name != kind else _NETWORK
    return name if name in networks else None


def _kind(path: Path) -> str | None:
    """Return the file system type of the innermost mount point above a path."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        front, found, back = line.partition(" - ")
        if not found:
            continue
        point = Path(_ESCAPED.sub(_character, front.split(" ")[4]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), back.split(" ")[0])
    return best[1] if best else None


def _character(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 8))


_known: set[tuple[int, int]] = set()
_knowing = threading.Lock()


def _start_of(file: Path) -> bytes:
    """Return the first bytes of a file, empty for one that this process knows.

    Whoever closes a file lets go of every lock that the process has on it (POSIX),
    those of SQLite's open connections too: the next process to leave would then take
    itself for the last, and delete the log under them. So a file is opened besides
    SQLite once, before any connection of this process.
    """
    with _knowing:
        if _key(file) in _known:
            return b""
        with file.open("rb") as opened:
            start = opened.read(len(_MAGIC))
        if start == _MAGIC:
            _known.add(_key(file))
        return start


def _key(file: Path) -> tuple[int, int]:
    found = file.stat()
    return found.st_dev, found.st_ino
