"""The workers as the search sees them: who is up, who is welcome, what they have said.

A dispatcher outlives the hold of a lease: while the database is away its workers go on,
and what they say meanwhile is kept. What each is at is the lifecycle's to know.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from evomerge.core.work import (
    Assignment,
    NodeSetAside,
    Pool,
    PoolEvent,
    Roster,
    Wishes,
    WorkerLost,
    WorkerReady,
)
from evomerge.store.values import CrewMember

COUNT_EVERY_S = 1.0
"""Workers are counted no more often while nothing is heard of them."""


@dataclass(frozen=True, slots=True)
class Count:
    """How many workers there were at a moment.

    Attributes:
        at: When, in seconds.
        n_up: Those that were ready and welcome.
        roster: How many there were, and were to be.
    """

    at: float
    n_up: int
    roster: Roster


class Dispatcher:
    """A pool and a clock, with what its workers said between two events."""

    def __init__(self, pool: Pool, clock: Callable[[], float] = time.monotonic) -> None:
        self._pool = pool
        self._clock = clock
        self._is_started = False
        self._ready: dict[str, WorkerReady] = {}
        self._new: dict[str, WorkerReady] = {}  # of these, those not yet welcome
        self._welcome: set[str] = set()
        self._inbox: deque[PoolEvent] = deque()
        self._wishes = Wishes()
        self._count: Count | None = None  # until somebody comes or goes

    @property
    def count(self) -> Count:
        """How many workers there are; asked after every event, so seldom counted."""
        now = self._clock()
        if self._count is None or now - self._count.at >= COUNT_EVERY_S:
            n_up = sum(name in self._welcome for name in self._pool.workers())
            self._count = Count(now, n_up, self.roster())
        return self._count

    @property
    def is_single(self) -> bool:
        """Whether one worker, and no other, is ready and welcome."""
        return self.count.n_up == 1

    def crew(self) -> Sequence[CrewMember]:
        """Return the workers that are ready, and what each said of itself."""
        free = set(self._pool.free())
        return [
            CrewMember(name, name not in free, self._ready[name].facts)
            for name in self._pool.workers()
            if name in self._ready
        ]

    def roster(self) -> Roster:
        """Return how many workers there are, and how many there are to be."""
        return self._pool.roster() if self._is_started else Roster(0, 0)

    def heed(self, wishes: Wishes) -> None:
        """Take what is wanted of the workers from now on."""
        if wishes != self._wishes:
            self._wishes = wishes
            self._pool.heed(wishes)
            self._count = None

    def start(self) -> None:
        """Bring the pool up, once."""
        if not self._is_started:
            self._is_started = True
            self._pool.start()
            self._count = None

    def newcomers(self) -> Sequence[WorkerReady]:
        """Return what the workers said that are ready and not yet welcome."""
        return tuple(self._new.values())

    def welcome(self, worker: str) -> None:
        """Let a worker have work from now on."""
        self._welcome.add(worker)
        self._new.pop(worker, None)
        self._count = None

    def free(self) -> Sequence[str]:
        """Return the welcome workers that have nothing to do."""
        return [name for name in self._pool.free() if name in self._welcome]

    def now(self) -> float:
        """Return the time, in seconds."""
        return self._clock()

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Hand work to a free worker."""
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

    def stop(self, worker: str) -> None:
        """Stop a worker; the pool brings up another."""
        self._pool.cancel(worker)
        self._count = None
        if worker not in self._pool.workers():
            self._forget(worker)

    def close(self) -> None:
        """Stop every worker; idempotent."""
        self._pool.close()

    def _note(self, event: PoolEvent) -> None:
        if isinstance(event, WorkerReady | WorkerLost | NodeSetAside):
            self._count = None
        if isinstance(event, WorkerReady):
            self._ready[event.worker] = event
            if event.worker not in self._welcome:
                self._new[event.worker] = event
        elif isinstance(event, WorkerLost):
            self._forget(event.worker)

    def _forget(self, worker: str) -> None:
        self._ready.pop(worker, None)
        self._new.pop(worker, None)
        self._welcome.discard(worker)
