"""A cluster of pretended machines at one switch, and the Ray that runs on them."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path

from support.machines.machine import Machine, Running
from support.machines.namespaces import PREFIX, ip, name_of, sweep

PORT = 6379
_PLACE = Path("/tmp")  # short: the path of a socket has 107 characters at most
_NET = "10.99.0"
_START_S = 420.0
_UP = "Ray runtime started"
# A lost machine is noticed in about 8 s; a head that is back within three minutes is
# the one that was there.
RAY = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_AUTH_MODE": "token",
    # A Ray of one machine, started by this process before, has set it to 0.
    "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",
    "RAY_health_check_initial_delay_ms": "20000",
    "RAY_health_check_period_ms": "1000",
    "RAY_health_check_timeout_ms": "2000",
    "RAY_health_check_failure_threshold": "3",
    "RAY_gcs_storage": "rocksdb",
    "RAY_gcs_rpc_server_reconnect_timeout_s": "180",
    "RAY_raylet_start_wait_time_s": "40",
    "PYTHONWARNINGS": "ignore",
    "OMP_NUM_THREADS": "1",
}


class Cluster:
    """Machines at one switch; a context manager that leaves nothing behind.

    Attributes:
        folder: Short, because Ray puts sockets below it; gone with the cluster.
    """

    def __init__(self) -> None:
        sweep(_PLACE)
        prefix = f"{PREFIX}{os.getpid()}-"
        self.folder = Path(tempfile.mkdtemp(prefix=prefix, dir=_PLACE))
        self.folder.chmod(0o755)  # a database's user looks into it
        self._switch = name_of("switch", os.getpid())
        self._machines: dict[str, Machine] = {}
        self._raylets: dict[str, Running] = {}
        (self.folder / "ray").mkdir()
        (self.folder / "gcs").mkdir()
        token = self.folder / "token"
        token.touch(0o600)
        token.write_text(secrets.token_hex(32))

    def __enter__(self) -> Cluster:
        ip("netns", "add", self._switch)
        ip("-n", self._switch, "link", "add", "name", "br0", "type", "bridge")
        ip("-n", self._switch, "link", "set", "br0", "up")
        return self

    def __exit__(self, *_: object) -> None:
        for machine in self._machines.values():
            machine.power_off()
            with suppress(OSError):
                ip("netns", "del", machine.network)
        with suppress(OSError):
            ip("netns", "del", self._switch)
        shutil.rmtree(self.folder, ignore_errors=True)

    @property
    def address(self) -> str:
        """Of Ray's head."""
        return f"{_NET}.1:{PORT}"

    @property
    def environment(self) -> Mapping[str, str]:
        """What every process that talks with Ray needs."""
        return {
            **RAY,
            "RAY_AUTH_TOKEN_PATH": str(self.folder / "token"),
            "RAY_gcs_storage_path": str(self.folder / "gcs"),
        }

    @property
    def names(self) -> list[str]:
        """Of all machines there were, also of those that are off."""
        return list(self._machines)

    def machine(self, name: str) -> Machine:
        """Add a machine with a small disk of its own, and switch it on.

        Args:
            name: Its host name.
        """
        number = len(self._machines) + 1
        disks = [self.folder / "ray", cache_folder(self.folder / name)]
        for path in disks:
            path.mkdir(parents=True, exist_ok=True)
        machine = Machine(name, f"{_NET}.{number}", self.folder / name, disks)
        self._machines[name] = machine
        self._plug_in(machine)
        machine.power_on()
        return machine

    def _plug_in(self, machine: Machine) -> None:
        switch, port, there = self._switch, machine.port, machine.network
        ip("netns", "add", there)
        pair = ("type", "veth", "peer", "name", "eth0", "netns", there)
        ip("-n", switch, "link", "add", port, *pair)
        ip("-n", switch, "link", "set", port, "master", "br0")
        ip("-n", switch, "link", "set", port, "up")
        ip("-n", there, "addr", "add", f"{machine.address}/24", "dev", "eth0")
        ip("-n", there, "link", "set", "eth0", "up")
        ip("-n", there, "link", "set", "lo", "up")

    def cut(self, machine: Machine) -> None:
        """Cut its cable."""
        ip("-n", self._switch, "link", "set", machine.port, "down")

    def heal(self, machine: Machine) -> None:
        """Mend its cable."""
        ip("-n", self._switch, "link", "set", machine.port, "up")

    def start_head(self, machine: Machine) -> None:
        """Start Ray's head on a machine, or again after it was killed."""
        words = ["--head", "--port", str(PORT), "--include-dashboard=false"]
        words += ["--temp-dir", str(self.folder / "ray"), "--num-cpus", "0"]
        self._start_ray(machine, [*words, "--disable-usage-stats"])

    def join(self, machine: Machine, n_cpus: int) -> None:
        """Start a raylet on a machine, which is started again whenever it ends."""
        words = ["--address", self.address, "--num-cpus", str(n_cpus)]
        self._start_ray(machine, words)

    def kill_ray(self, machine: Machine) -> None:
        """Kill every program of a machine; nothing starts Ray again there."""
        del self._raylets[machine.name]
        machine.kill_all()

    def _start_ray(self, machine: Machine, words: list[str]) -> None:
        ray = Path(sys.executable).with_name("ray")
        line = [str(ray), "start", "--block", "--node-ip-address", machine.address]
        line += ["--object-store-memory", "100000000", *words]
        loop = 'while :; do "$@"; sleep 1; done'  # as a service manager would
        supervised = ["/bin/sh", "-c", loop, "sh", *line]
        log = machine.folder / "ray.log"
        before = _count(log)
        environment = {**self.environment, **cache_of(machine)}
        self._raylets[machine.name] = machine.run(supervised, "ray.log", environment)
        self._raylets[machine.name].go_first()
        until(lambda: _count(log) > before, _START_S, log)

    def times_up(self, machine: Machine) -> int:
        """Return how often Ray has come up on a machine."""
        return _count(machine.folder / "ray.log")


def cache_folder(folder: Path) -> Path:
    """Return where a machine of this folder caches."""
    return folder / "cache"


def cache_of(machine: Machine) -> Mapping[str, str]:
    """Return what names a machine's own cache folder."""
    return {"XDG_CACHE_HOME": str(cache_folder(machine.folder))}


def until(
    what: Callable[[], object], patience_s: float, log: Path | None = None
) -> float:
    """Wait for something to be so; return the seconds it took.

    Raises:
        AssertionError: It was not so in time; quotes the log.
    """
    began = time.monotonic()
    while not what():
        took_s = time.monotonic() - began
        if took_s > patience_s:
            said = "" if log is None else log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"waited {took_s:.0f} s in vain. {said}")
        time.sleep(0.2)
    return time.monotonic() - began


def _count(log: Path) -> int:
    return log.read_text(errors="replace").count(_UP) if log.exists() else 0
