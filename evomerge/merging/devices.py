"""Where a merge is computed, and on how many threads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from evomerge.errors import WorkerError


def check_device(device: str) -> None:
    """Make sure that tensors can be put on a device.

    Raises:
        WorkerError: There is no such device here.
    """
    try:
        kind = torch.device(device).type
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"merges run on cpu or cuda, not on {kind}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise WorkerError(
            f"Device {device!r} cannot be used: {said}. Use cpu, or cuda on a machine "
            "where torch finds one."
        ) from error


@contextmanager
def on_threads(number: int | None) -> Iterator[None]:
    """Let torch, and merges with it, use so many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
