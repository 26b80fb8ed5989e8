"""One process at a time makes what several would make anew."""

from __future__ import annotations

import fcntl
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from evomerge.errors import WorkerError

LOCK_TIMEOUT_S = 900.0


@contextmanager
def locked(path: Path, doing: str) -> Iterator[None]:
    """Hold a lock that the system releases should this process die.

    Args:
        path: The lock's file; made if it is not there.
        doing: What is done under it, for messages.

    Raises:
        WorkerError: Another process holds the lock for too long.
    """
    deadline = time.monotonic() + LOCK_TIMEOUT_S
    with path.open("a") as handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError as error:
                if time.monotonic() > deadline:
                    raise WorkerError(
                        f"Another process has held {path} for {LOCK_TIMEOUT_S:.0f} s "
                        f"while {doing}; end it and try again."
                    ) from error
                time.sleep(0.2)
        yield
