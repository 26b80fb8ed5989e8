"""What a killed search leaves of its Ray is removed by the next; the living stay."""

import os
import subprocess
import sys
from pathlib import Path

from evomerge.cluster.ray_connection import TEMP_PREFIX, sweep


def dead_pid() -> int:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_only_folders_of_dead_processes_are_removed(tmp_path: Path) -> None:
    dead = tmp_path / f"{TEMP_PREFIX}{dead_pid()}-abc"
    alive = tmp_path / f"{TEMP_PREFIX}{os.getpid()}-abc"
    foreign = tmp_path / f"{TEMP_PREFIX}notes-abc"
    for folder in (dead, alive, foreign):
        (folder / "session").mkdir(parents=True)
    sweep(tmp_path)
    assert not dead.exists()
    assert alive.is_dir()
    assert foreign.is_dir()


def test_a_link_is_never_followed(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    kept.mkdir()
    link = tmp_path / f"{TEMP_PREFIX}{dead_pid()}-abc"
    link.symlink_to(kept)
    sweep(tmp_path)
    assert kept.is_dir()
