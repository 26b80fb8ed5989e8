"""One local Ray for a whole test module, and pools that join it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from evomerge.cluster.ray_connection import Placement, RayConnection
from evomerge.cluster.ray_pool import RayPool
from evomerge.core.work import WorkerSetup


@pytest.fixture(scope="module")
def ray_here(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Start Ray for the module: each pool then joins it instead of starting one."""
    run_dir = str(tmp_path_factory.mktemp("run"))
    keeper = RayConnection(Placement(run_dir=run_dir, n_workers=2, cpus=0.5))
    keeper.connect()
    yield
    keeper.close()


def ray_pool(setup: WorkerSetup, tmp_path: Path, n_workers: int | None = 1) -> RayPool:
    """Return a pool whose workers need half a core each."""
    run_dir = str(tmp_path / "run")
    return RayPool(setup, Placement(run_dir=run_dir, n_workers=n_workers, cpus=0.5))
