"""Whether this machine has room for the workers that are asked for."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from evomerge.core.work import EngineSettings

WORKER_GIB = 3
"""Memory of an engine on a CPU, libraries and a small model, as Ray's pool plans it."""


def crowding(
    n_workers: int | None,
    engine: EngineSettings,
    *,
    n_cores: int | None = None,
    n_gpus: int | None = None,
) -> str | None:
    """Say what becomes of more workers than this machine has room for.

    Args:
        n_workers: Engines at once; None for as many as there is room for.
        engine: What each reserves.
        n_cores: This machine's; looked up if not given.
        n_gpus: The same.

    Returns:
        None where there is room for all.
    """
    if n_workers is None:
        return None
    n_cores = n_cores or os.cpu_count() or 1
    n_gpus = gpus_here() if n_gpus is None else n_gpus
    share = float(n_gpus > 0) if engine.gpus is None else engine.gpus
    if share:
        room = int(n_gpus / share + 1e-9)
        wait = n_workers - room
        if wait <= 0:
            return None
        return (
            f"{n_workers} workers want {n_workers * share:g} GPUs, and this machine "
            f"has {n_gpus}: {wait} of them will wait."
        )
    if n_workers * engine.cpus <= n_cores:
        return None
    return (
        f"{n_workers} workers want {n_workers * engine.cpus:g} cores, and this machine "
        f"has {n_cores}: they will take turns, each with about {WORKER_GIB} GiB of "
        "memory. More than there are cores for gain nothing."
    )


def gpus_here(
    devices: Path = Path("/dev"), environment: Mapping[str, str] = os.environ
) -> int:
    """Count this machine's NVIDIA GPUs that may be seen; no library is loaded."""
    n_there = sum(
        file.name.removeprefix("nvidia").isdecimal() for file in devices.glob("nvidia*")
    )
    seen = environment.get("CUDA_VISIBLE_DEVICES")
    if seen is None:
        return n_there
    named = [one for one in seen.split(",") if one.strip() not in ("", "-1")]
    return min(n_there, len(named))
