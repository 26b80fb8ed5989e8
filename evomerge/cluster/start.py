"""What it means that a worker could not start."""

from __future__ import annotations

from evomerge.core.trial import Cause, Failure
from evomerge.core.work import WorkerLost
from evomerge.errors import EvomergeError, SelfTestError, WorkerError
from evomerge.scoring.failures import failure_from


def failed_start(worker: str, error: Exception) -> WorkerLost:
    """Say whether another worker would fail alike.

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
    return WorkerLost(worker, None, None, lost, fatal=is_fatal)
