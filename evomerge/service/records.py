"""What a service reads and writes for those who ask, and how many do so at once."""

from __future__ import annotations

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from evomerge.errors import BusyError, StoreUnreachableError
from evomerge.store.databases.database import Database
from evomerge.store.queue.accounts import Accounts
from evomerge.store.queue.exports import Exports
from evomerge.store.queue.job_queue import JobQueue
from evomerge.store.queue.workers import Workers

AT_ONCE = 6
"""Requests of one process that are at the database at the same time: each keeps a
connection to read and one to write."""
PATIENCE_S = 20.0
AWAY_S = 600.0
"""How long a database may be away when a replica starts."""
TOLD_S = 10.0
_logger = logging.getLogger(__name__)


class Records:
    """Jobs, exports and accounts over one database; one thread's at a time.

    Args:
        url: Of the database.
        create: Make its tables where there are none.

    Raises:
        StoreError: It cannot be used.
    """

    def __init__(self, url: str, *, create: bool = False) -> None:
        self._database = Database(url, create=create)
        self.queue = JobQueue(self._database)
        self.accounts = Accounts(self._database)
        self.exports = Exports(self._database)
        self.workers = Workers(self._database)

    def seconds(self) -> float:
        """Return the database's clock, seconds since 1970.

        Raises:
            StoreUnreachableError: It does not answer.
        """
        return self._database.seconds()

    def close(self) -> None:
        """Close the database; idempotent."""
        self._database.close()


def waited_for(
    url: str,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Records:
    """Open records, made where there are none; a database that is away is waited for.

    Every ten seconds a line tells so.

    Raises:
        StoreUnreachableError: It did not answer for ten minutes.
        StoreError: It cannot be used.
    """
    began = clock()
    while True:
        try:
            return Records(url, create=True)
        except StoreUnreachableError as error:
            left_s = began + AWAY_S - clock()
            if left_s <= 0:
                raise
            _logger.warning("%s Waiting for it, %.0f s at most.", error, left_s)
            sleep(min(TOLD_S, left_s))


class RecordsPool:
    """Lends ``Records`` to threads, to so many at once.

    Args:
        url: Of the database; nothing is opened before it is needed.
        at_once: How many are lent at the same time.
        patience_s: How long a thread waits for its turn.
    """

    def __init__(
        self, url: str, at_once: int = AT_ONCE, patience_s: float = PATIENCE_S
    ) -> None:
        self._url = url
        self._patience_s = patience_s
        self._turns = threading.BoundedSemaphore(at_once)
        self._idle: queue.SimpleQueue[Records] = queue.SimpleQueue()

    @contextmanager
    def lend(self) -> Iterator[Records]:
        """Lend records while the block lasts.

        Raises:
            BusyError: Too many others have some.
            StoreError: The database cannot be used.
        """
        if not self._turns.acquire(timeout=self._patience_s):
            raise BusyError(
                "Too many requests wait for the database; try again in a moment."
            )
        try:
            try:
                records = self._idle.get_nowait()
            except queue.Empty:
                records = Records(self._url)
            try:
                yield records
            except StoreUnreachableError:
                records.close()
                self.close()  # the others' connections are as dead as this one's
                raise
            except BaseException:
                self._idle.put(records)
                raise
            self._idle.put(records)
        finally:
            self._turns.release()

    def close(self) -> None:
        """Close what is not lent."""
        while True:
            try:
                self._idle.get_nowait().close()
            except queue.Empty:
                return
