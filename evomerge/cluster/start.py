"""How often a start is tried, and what it means that one failed; for every pool."""

from __future__ import annotations

from dataclasses import replace

from evomerge.core.trial import Cause, Failure
from evomerge.core.work import WorkerLost
from evomerge.errors import EvomergeError, SelfTestError, WorkerError
from evomerge.scoring.failures import failure_from

TRIES = 3
"""Starts in a row that may fail; one more would not fare better."""


class Starts:
    """Counts the starts that failed since a worker was ready."""

    def __init__(self) -> None:
        self._n_failed = 0

    def succeeded(self) -> None:
        """A worker is ready."""
        self._n_failed = 0

    def failed(self) -> bool:
        """Count another one; tell whether it was the last to be tried."""
        self._n_failed += 1
        return self._n_failed >= TRIES

    def lost(self, worker: WorkerLost) -> WorkerLost:
        """Count a worker that never became ready; the last one's loss is fatal."""
        is_last = self.failed()
        return replace(worker, fatal=worker.fatal or is_last)


def failed_start(worker: str, error: Exception) -> WorkerLost:
    """Say whether another worker would fail alike, now and later.

    It would where the study, its models or its tasks are at fault, or the engine is
    not true to its weights. It need not where memory or disk ran out, or the engine
    could not get hold of a device that a worker before has not quite left.
    """
    failure = failure_from(error, scoring=False)
    is_ours = isinstance(error, EvomergeError) and (
        isinstance(error, SelfTestError) or not isinstance(error, WorkerError)
    )
    is_fatal = is_ours and failure.cause is Cause.ENGINE
    message = f"The worker could not start: {failure.message}"
    lost = Failure(failure.cause, failure.blame, message)
    kind = type(error).__name__
    return WorkerLost(
        worker, None, None, lost, fatal=is_fatal, futile=is_fatal, kind=kind
    )
