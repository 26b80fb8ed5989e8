"""A worker that cannot start: would another one fare better?"""

import pytest

from evomerge.cluster.start import failed_start
from evomerge.core.trial import Cause
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
