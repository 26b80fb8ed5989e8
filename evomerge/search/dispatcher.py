"""The workers as the search sees them: who is up, and what each is at, until when.

A dispatcher outlives the hold of a lease: while the database is away its workers go on,
and whoever is still at an attempt of before is given nothing new and is stopped in
time.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    Pool,
    PoolEvent,
    WorkerLost,
    WorkerReady,
)


@dataclass(frozen=True, slots=True)
class InFlight:
    """An attempt that a worker is at.

    Attributes:
        deadline: When it has to be over, in seconds of the dispatcher's clock.
    """

    worker: str
    trial: int
    attempt: int
    deadline: float


class Dispatcher:
    """A pool, with what must be remembered of its workers between two events."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._is_started = False
        self._ready: dict[str, WorkerReady] = {}
        self._welcome: set[str] = set()
        self._sent: dict[str, InFlight] = {}
        self._inbox: deque[PoolEvent] = deque()

    @property
    def n_up(self) -> int:
        """Workers that are ready and welcome."""
        return len(self._welcome)

    def start(self) -> None:
        """Bring the pool up, once."""
        if not self._is_started:
            self._is_started = True
            self._pool.start()

    def newcomers(self) -> Sequence[WorkerReady]:
        """Return what the workers said that are ready and not yet welcome."""
        return [e for name, e in self._ready.items() if name not in self._welcome]

    def welcome(self, worker: str) -> None:
        """Let a worker have work from now on."""
        self._welcome.add(worker)

    def free(self) -> Sequence[str]:
        """Return the welcome workers that have nothing to do."""
        return [name for name in self._pool.free() if name in self._welcome]

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Hand work to a free worker; its time begins now."""
        self._sent[worker] = InFlight(
            worker,
            assignment.trial,
            assignment.attempt,
            self._clock() + assignment.timeout_s,
        )
        self._pool.submit(worker, assignment)

    def events(self, timeout_s: float) -> Iterator[PoolEvent]:
        """Give what happened, waiting up to ``timeout_s`` seconds for something.

        What the caller leaves, because handling an event before it failed, is given
        by the next call.
        """
        if not self._inbox:
            for event in self._pool.poll(timeout_s):
                self._note(event)
                self._inbox.append(event)
        while self._inbox:
            yield self._inbox.popleft()

    def overdue(self) -> Sequence[InFlight]:
        """Return the attempts whose deadline has passed."""
        if not self._sent:
            return ()
        now = self._clock()
        return [sent for sent in self._sent.values() if sent.deadline <= now]

    def cancel(self, trial: int, attempt: int) -> None:
        """Stop the worker at this attempt; the pool brings up another."""
        self._pool.cancel(trial, attempt)
        for sent in list(self._sent.values()):
            if (sent.trial, sent.attempt) == (trial, attempt):
                del self._sent[sent.worker]
                if sent.worker not in self._pool.workers():
                    self._forget(sent.worker)

    def close(self) -> None:
        """Stop every worker; idempotent."""
        self._pool.close()

    def _note(self, event: PoolEvent) -> None:
        if isinstance(event, WorkerReady):
            self._ready[event.worker] = event
        elif isinstance(event, WorkerLost):
            self._forget(event.worker)
        elif isinstance(event, AttemptDone | AttemptFailed):
            self._sent.pop(event.worker, None)

    def _forget(self, worker: str) -> None:
        self._ready.pop(worker, None)
        self._welcome.discard(worker)
        self._sent.pop(worker, None)
