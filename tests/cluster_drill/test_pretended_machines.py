"""Pretended machines: what they share, what befalls them, what is left of them."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.machines.cluster import Cluster, until
from support.machines.machine import Machine
from support.machines.namespaces import PREFIX, name_of, refusal, sweep

_CRASH = """
import os, signal
from support.machines.cluster import Cluster
with Cluster() as cluster:
    machine = cluster.machine("one")
    print(os.getpid(), cluster.folder, *machine.pids(), flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""
_REACH = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 9), timeout=0.5)
except ConnectionRefusedError:
    print("there")
except OSError:
    print("away")
"""


@pytest.fixture(autouse=True)
def _granted() -> None:
    if (why := refusal()) is not None:
        pytest.skip(f"machines cannot be pretended here: {why}")


@pytest.fixture
def cluster() -> Iterator[Cluster]:
    with Cluster() as made:
        yield made


def told(machine: Machine, *words: str) -> str:
    """Return what a program says on a machine."""
    log = machine.folder / "told.log"
    log.unlink(missing_ok=True)
    machine.run(words, "told.log", {}).wait(10)
    return log.read_text().strip()


def reaches(one: Machine, other: Machine) -> bool:
    return told(one, sys.executable, "-I", "-S", "-c", _REACH, other.address) == "there"


def test_a_machine_sees_its_own_processes_and_name_and_others_over_a_cable(
    cluster: Cluster,
) -> None:
    one, other = map(cluster.machine, ("one", "other"))
    assert told(one, "hostname") == "one"
    assert "sleep 77" not in told(other, "ps", "ax")
    pid = one.run(["sleep", "77"], "sleep.log", {}).pid
    until(lambda: one.named("sleep 77") == [pid], 10)
    assert "sleep 77" in told(one, "ps", "ax")
    assert "sleep 77" not in told(other, "ps", "ax")
    assert reaches(one, other)
    cluster.cut(other)
    assert not reaches(one, other)
    cluster.heal(other)
    one.block(other)
    assert not reaches(one, other)
    one.unblock(other)
    one.power_off()
    assert one.pids() == []
    assert not Path(f"/proc/{pid}").exists()


def test_a_machine_has_a_disk_of_its_own_that_can_be_full(cluster: Cluster) -> None:
    one, other = map(cluster.machine, ("one", "other"))
    write = f"echo words > {cluster.folder}/ray/file; echo ended with $?"
    one.fill_disk()
    assert "ended with 0" not in told(one, "sh", "-c", write)
    assert told(other, "sh", "-c", write) == "ended with 0"
    one.free_disk()
    assert told(one, "sh", "-c", write) == "ended with 0"


def test_what_a_killed_owner_leaves_is_swept(tmp_path: Path) -> None:
    line = [sys.executable, "-c", _CRASH]
    crashed = subprocess.run(line, capture_output=True, text=True, check=False)
    owner, folder, *pids = crashed.stdout.split()
    network = Path("/run/netns") / name_of("one", int(owner))
    assert network.exists()
    assert Path(folder).name.startswith(f"{PREFIX}{owner}-")
    for pid in pids:  # they end with their owner
        while Path(f"/proc/{pid}").exists():
            os.sched_yield()
    sweep(Path(folder).parent)
    assert not network.exists()
    assert not Path(folder).exists()
