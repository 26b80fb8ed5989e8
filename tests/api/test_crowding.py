"""More workers than a machine has room for are told."""

from pathlib import Path

import pytest

from evomerge.api.crowding import crowding, gpus_here
from evomerge.core.work import EngineSettings


def engine(cpus: float = 1.0, gpus: float | None = None) -> EngineSettings:
    return EngineSettings("vllm", "float32", cpus=cpus, gpus=gpus)


@pytest.mark.parametrize(
    ("n_workers", "settings", "n_cores", "n_gpus"),
    [
        (None, engine(), 1, 0),
        (2, engine(), 2, 0),
        (4, engine(0.5), 2, 0),
        (4, engine(), 2, 4),
        (8, engine(gpus=0.5), 2, 4),
        (2, engine(gpus=0), 2, 1),
    ],
)
def test_where_there_is_room_nothing_is_said(
    n_workers: int | None, settings: EngineSettings, n_cores: int, n_gpus: int
) -> None:
    assert crowding(n_workers, settings, n_cores=n_cores, n_gpus=n_gpus) is None


@pytest.mark.parametrize(
    ("settings", "n_cores", "n_gpus", "words"),
    [
        (engine(), 2, 0, "8 workers want 8 cores, and this machine has 2:"),
        (engine(2), 8, 0, "8 workers want 16 cores, and this machine has 8:"),
        (engine(), 64, 2, "8 workers want 8 GPUs, and this machine has 2: 6 of them"),
        (engine(gpus=0.5), 64, 2, "want 4 GPUs, and this machine has 2: 4 of them"),
        (engine(gpus=1), 64, 0, "8 workers want 8 GPUs, and this machine has 0:"),
        (engine(gpus=0), 4, 2, "8 workers want 8 cores, and this machine has 4:"),
    ],
)
def test_what_lacks_is_said(
    settings: EngineSettings, n_cores: int, n_gpus: int, words: str
) -> None:
    said = crowding(8, settings, n_cores=n_cores, n_gpus=n_gpus)
    assert said is not None
    assert words in said


@pytest.mark.parametrize(
    ("seen", "n"),
    [(None, 3), ("0,1", 2), ("", 0), ("-1", 0), ("GPU-1,GPU-2,GPU-3,GPU-4", 3)],
)
def test_gpus_are_counted_without_a_library(
    tmp_path: Path, seen: str | None, n: int
) -> None:
    for name in ("nvidia0", "nvidia1", "nvidia2", "nvidiactl", "nvidia-uvm", "null"):
        (tmp_path / name).touch()
    environment = {} if seen is None else {"CUDA_VISIBLE_DEVICES": seen}
    assert gpus_here(tmp_path, environment) == n
