"""A worker that cannot start: would another one fare better?"""

from typing import Any

import pytest

from evomerge.cluster.inprocess import InProcessPool
from evomerge.cluster.start import Starts, failed_start
from evomerge.core.trial import Cause
from evomerge.core.work import WorkerReady
from evomerge.errors import (
    CheckpointError,
    Problem,
    SelfTestError,
    SpecError,
    WorkerError,
)


@pytest.mark.parametrize(
    "error",
    [
        SpecError([Problem("task x", "no such option")]),
        CheckpointError("shard 1 is corrupt"),
        SelfTestError("the engine answers as before the swap"),
    ],
)
def test_what_would_fail_alike_everywhere_is_fatal(error: Exception) -> None:
    lost = failed_start("w0", error)
    assert lost.fatal
    assert lost.futile
    assert str(error) in lost.failure.message


@pytest.mark.parametrize(
    ("error", "cause"),
    [
        (MemoryError(), Cause.OUT_OF_MEMORY),
        (WorkerError("CUDA out of memory"), Cause.OUT_OF_MEMORY),
        (OSError(28, "No space left on device"), Cause.DISK_FULL),
        (WorkerError("the device is busy"), Cause.ENGINE),
        (RuntimeError("NCCL"), Cause.ENGINE),
    ],
)
def test_what_another_machine_may_do_better_is_tried_again(
    error: Exception, cause: Cause
) -> None:
    lost = failed_start("w0", error)
    assert not lost.fatal
    assert lost.failure.cause is cause
    assert lost.failure.message.startswith("The worker could not start: ")


class NeverReady:
    """Makes scorers that cannot start."""

    def __init__(self, error: Exception, n_times: int = 10) -> None:
        self.error = error
        self.left = n_times

    def __call__(self) -> Any:
        if self.left:
            self.left -= 1
            raise self.error
        return self

    def ready(self, worker: str) -> WorkerReady:
        return WorkerReady(worker, (), {})


def starts_of(make: NeverReady, n_polls: int) -> list[Any]:
    pool = InProcessPool(make)
    pool.start()
    return [event for _ in range(n_polls) for event in pool.poll(0)]


def test_the_third_start_in_a_row_that_fails_in_this_process_is_the_last() -> None:
    lost = starts_of(NeverReady(MemoryError()), 3)
    assert [event.fatal for event in lost] == [False, False, True]
    assert not lost[-1].futile
    assert lost[-1].failure.cause is Cause.OUT_OF_MEMORY


def test_what_would_fail_alike_is_tried_once_in_this_process() -> None:
    (lost,) = starts_of(NeverReady(SpecError([Problem("task x", "no such")])), 1)
    assert lost.fatal


def test_a_start_that_succeeds_is_no_failure_any_more() -> None:
    *lost, ready = starts_of(NeverReady(RuntimeError("NCCL"), n_times=2), 3)
    assert [event.fatal for event in lost] == [False, False]
    assert isinstance(ready, WorkerReady)


def test_failures_count_from_the_last_worker_that_was_ready() -> None:
    starts = Starts()
    assert [starts.failed() for _ in range(2)] == [False, False]
    starts.succeeded()
    assert [starts.failed() for _ in range(3)] == [False, False, True]
