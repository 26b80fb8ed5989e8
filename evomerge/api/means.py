"""How a merge is computed and written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Progress = Callable[[int, int], None]
"""Told written bytes and all bytes."""


@dataclass(frozen=True, slots=True)
class Means:
    """How one merge is computed; the result is the same on the same kind of device.

    Attributes:
        device: As torch names it.
        dtype: Element type of the result; None takes the recipe's.
        threads: Processor threads; None takes as many as there are cores.
        memory_bytes: Most memory to use; None takes what is free.
        cache_dir: Where fingerprints are remembered between processes, if anywhere.
        shard_bytes: Largest weight file.
    """

    device: str = "cpu"
    dtype: str | None = None
    threads: int | None = None
    memory_bytes: int | None = None
    cache_dir: Path | None = None
    shard_bytes: int = 5 * 10**9
