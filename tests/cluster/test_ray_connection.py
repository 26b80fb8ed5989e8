"""A Ray of our own: where it listens, and what a killed one leaves behind."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from evomerge.cluster.leftovers import TEMP_PREFIX, sweep

LISTENERS = """
import sys
from pathlib import Path
from evomerge.cluster.ray_connection import Placement, RayConnection

def open_to_others():
    found = set()
    for name in ("tcp", "tcp6"):
        for line in Path("/proc/net", name).read_text().splitlines()[1:]:
            _, local, _, state, *_ = line.split()
            address = local.split(":")[0]
            if state == "0A" and not address.endswith("0100007F"):
                found.add((name, local))
    return found

before = open_to_others()
connection = RayConnection(Placement(run_dir=sys.argv[1], n_workers=1))
connection.connect()
import ray
assert ray.get(ray.remote(lambda: 7).remote()) == 7
print(len(open_to_others() - before))
connection.close()
"""


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


@pytest.mark.ray
@pytest.mark.skipif(not Path("/proc/net/tcp").exists(), reason="reads Linux's tables")
def test_a_ray_started_here_listens_on_loopback_alone(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", LISTENERS, str(tmp_path)],
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )
    assert done.stdout.split() == ["0"], done.stdout + done.stderr
