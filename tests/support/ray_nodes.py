"""Several nodes of Ray on this machine: each a raylet of its own, by ``ray start``."""

from __future__ import annotations

import os
import secrets
import shlex
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import MappingProxyType

START_S = 240.0
"""Longest a node may take to come up, on a machine that has much else to do."""
_TRIES = 3
_AGENTS = (
    *("metrics-export", "runtime-env-agent"),
    *("dashboard-agent-grpc", "dashboard-agent-listen"),
)


class RayNodes:
    """A head without cores, and the nodes that are started beside it."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._temp = tempfile.TemporaryDirectory(prefix="em-n-")  # paths of sockets
        self._mounts: Mapping[Path, Path | None] = {}
        self._nodes: dict[str, subprocess.Popen[bytes]] = {}
        token = folder / "token"
        token.write_text(secrets.token_hex(32))
        token.chmod(0o600)
        self.address = f"127.0.0.1:{_free_port()}"
        self.env = {
            **os.environ,
            "RAY_AUTH_MODE": "token",
            "RAY_AUTH_TOKEN_PATH": str(token),
            "RAY_USAGE_STATS_ENABLED": "0",
            "RAY_raylet_start_wait_time_s": "120",
            "PYTHONWARNINGS": "ignore",
        }

    def start_head(self) -> None:
        """Start the node that the coordinator is beside."""
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false", "--no-monitor"]
        self._start("head", 0, [*head, f"--temp-dir={self._temp.name}/r"], {})

    def start(
        self,
        name: str,
        env: Mapping[str, str] | None = None,
        mounts: Mapping[Path, Path | None] = MappingProxyType({}),
    ) -> None:
        """Start a node with one core.

        Args:
            name: For ``stop``.
            env: What its workers' environment has besides.
            mounts: Folders, to what they are there instead: another, or None for
                an empty one; needs root.
        """
        self._mounts = mounts
        self._start(name, 1, [f"--address={self.address}"], env or {})

    def stop(self, name: str) -> None:
        """Take a node away, with all its processes."""
        process = self._nodes.pop(name)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def close(self) -> None:
        """Take everything away."""
        for name in reversed(list(self._nodes)):
            self.stop(name)
        self._temp.cleanup()

    def _start(
        self, name: str, cpus: int, how: list[str], env: Mapping[str, str]
    ) -> None:
        for _ in range(_TRIES):
            if self._has_started(name, cpus, how, env):
                return
        log = (self._folder / f"{name}.log").read_text()
        raise AssertionError(f"{name} did not start:\n{log}")

    def _has_started(
        self, name: str, cpus: int, how: list[str], env: Mapping[str, str]
    ) -> bool:
        log = self._folder / f"{name}.log"
        command = [sys.executable, "-m", "ray.scripts.scripts", "start", "--block"]
        limits = [f"--num-cpus={cpus}", "--object-store-memory=100000000"]
        # A raylet that has to ask its agents for their ports gives up after 15 s.
        limits += [f"--{agent}-port={_free_port()}" for agent in _AGENTS]
        words = [*command, *how, *limits, "--disable-usage-stats"]
        if self._mounts:
            steps = [
                f"mount -t tmpfs none {shlex.quote(str(there))}"
                if instead is None
                else shlex.join(("mount", "--bind", str(instead), str(there)))
                for there, instead in self._mounts.items()
            ]
            script = " && ".join([*steps, f"exec {shlex.join(words)}"])
            words = ["unshare", "--mount", "sh", "-ec", script]
        with log.open("wb") as out:
            self._nodes[name] = subprocess.Popen(
                words,
                env={**self.env, **env},
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        with suppress(OSError):  # before other programs, if that is granted
            group = Path(f"/proc/{self._nodes[name].pid}/autogroup")
            group.write_text("-15")
        end = time.monotonic() + START_S
        while time.monotonic() < end and self._nodes[name].poll() is None:
            if b"Ray runtime started" in log.read_bytes():
                return True
            time.sleep(0.2)
        self.stop(name)
        return False


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port: int = free.getsockname()[1]
        return port
