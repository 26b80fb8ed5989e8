"""One worker inside this process: for debugging, tests and the simulated engine.

The work happens inside ``poll``, one block at a time. A hung block cannot be
interrupted from here; the worker's own deadline is checked between blocks.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Protocol

from evomerge.cluster.report import report_here
from evomerge.cluster.room import DRAINED
from evomerge.cluster.start import Starts, failed_start
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    AttemptFailed,
    BlockScored,
    PoolEvent,
    Roster,
    Wishes,
    WorkerReady,
)

Answer = BlockScored | AttemptDone | AttemptFailed


class Scorer(Protocol):
    """What a worker is made of; ``scoring.evaluator.Evaluator`` is the real one."""

    def ready(self, worker: str) -> WorkerReady:
        """Describe the tasks, after passing the self-test."""

    def run(self, worker: str, assignment: Assignment) -> Iterator[Answer]:
        """Score an assignment, answering block by block."""

    def close(self) -> None:
        """Free everything; idempotent."""


class InProcessPool:
    """A pool of one worker that runs on the caller's thread."""

    def __init__(self, make: Callable[[], Scorer], name: str = "local") -> None:
        self._make = make
        self._name = name
        self._scorer: Scorer | None = None
        self._starts = Starts()
        self._is_wanted = False
        self._is_drained = False
        self._work: Iterator[Answer] | None = None

    def start(self) -> None:
        """Bring the worker up at the next poll."""
        self._is_wanted = True

    def free(self) -> Sequence[str]:
        """Return the worker's name if it is up and idle."""
        is_idle = self._scorer is not None and self._work is None
        return (self._name,) if is_idle and not self._is_drained else ()

    def workers(self) -> Sequence[str]:
        """Return the worker's name if it is up."""
        return () if self._scorer is None else (self._name,)

    def roster(self) -> Roster:
        """Return that one worker is wanted, and whether it is up."""
        if self._is_drained:
            return Roster(wanted=0, up=0, waits_for=DRAINED)
        return Roster(wanted=1, up=len(self.workers()))

    def heed(self, wishes: Wishes) -> None:
        """Put the worker to rest, or let it back; there is never more than one."""
        self._is_drained = self._name in wishes.drained

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Take an assignment; it is worked on in ``poll``."""
        if self._scorer is None or self._work is not None:
            raise RuntimeError(f"worker {worker!r} is not free")
        self._work = self._scorer.run(worker, assignment)

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Do the next piece of work; blocks as long as that takes."""
        if self._is_drained and self._work is None:
            self._let_go()
            time.sleep(timeout_s)
            return ()
        if self._scorer is None:
            return self._bring_up() if self._is_wanted else ()
        if self._work is None:
            return ()
        event = next(self._work)
        if not isinstance(event, BlockScored):
            self._work = None
        return (event,)

    def cancel(self, worker: str) -> None:
        """Drop the assignment at work."""
        del worker
        self._work = None

    def close(self) -> None:
        """Close the worker; idempotent."""
        self._is_wanted = False
        self._work = None
        self._let_go()

    def _let_go(self) -> None:
        if self._scorer is not None:
            scorer, self._scorer = self._scorer, None
            scorer.close()

    def _bring_up(self) -> Sequence[PoolEvent]:
        try:
            scorer = self._make()
            ready = scorer.ready(self._name)
        except Exception as error:  # noqa: BLE001 - a worker's outermost call
            return (self._starts.lost(failed_start(self._name, error)),)
        self._starts.succeeded()
        self._scorer = scorer
        return (replace(ready, facts={**ready.facts, **report_here()}),)
