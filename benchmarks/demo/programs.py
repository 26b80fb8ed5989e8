"""Programs of the demo: each ends with it, at the latest."""

from __future__ import annotations

import ctypes
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_TRIES = 8


class Program:
    """A program in a session of its own.

    Args:
        words: The program and its arguments.
        log: What it writes is added to this file.
        environment: Its variables.
    """

    def __init__(
        self, words: Sequence[object], log: Path, environment: Mapping[str, str]
    ) -> None:
        self.log = log
        self._words = [str(word) for word in words]
        with log.open("ab") as out:
            self._process = subprocess.Popen(
                self._words,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )

    @property
    def is_running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    def family(self) -> list[int]:
        """Return it and all that it started, and what those started."""
        parents: dict[int, list[int]] = {}
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                fields = (path / "stat").read_text().rpartition(")")[2].split()
                parents.setdefault(int(fields[1]), []).append(int(path.name))
        found = [self._process.pid]
        for pid in found:  # grows as it goes
            found += parents.get(pid, [])
        return found

    def kill(self) -> None:
        """End it and all that it started, as a loss of power would; idempotent."""
        for pid in self.family():
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._process.wait()

    def kill_alone(self) -> None:
        """End it, and let what it started see to itself."""
        self._process.kill()
        self._process.wait()

    def said(self, words: str) -> bool:
        """Tell whether it wrote this.

        Raises:
            RuntimeError: It has ended; quotes what it wrote.
        """
        if words in self.log.read_text(errors="replace"):
            return True
        self.must_run()
        return False

    def must_run(self) -> None:
        """Look that it has not ended.

        Raises:
            RuntimeError: It has; quotes what it wrote.
        """
        if not self.is_running:
            text = self.log.read_text(errors="replace")
            raise RuntimeError(f"{self._words[:4]} has ended: {text[-3000:]}")


def ray_node(
    folder: Path, name: str, words: Sequence[object], environment: Mapping[str, str]
) -> Program:
    """Start a node of Ray; another try is made if it dies while it starts.

    Args:
        folder: For its log.
        name: Of the node.
        words: Of ``ray start``.
        environment: Its variables.
    """
    ray = Path(sys.executable).with_name("ray")
    line = [ray, "start", "--block", "--node-name", name, *words]
    line += ["--object-store-memory", 100_000_000]
    # A raylet ends if its agent has not started within 15 s, as on a busy machine.
    for left in reversed(range(_TRIES)):
        node = Program(line, folder / f"{name}-{left}.log", environment)
        try:
            until(lambda n=node: n.said("Ray runtime started"), 240)
        except (RuntimeError, TimeoutError):
            node.kill()
            if not left:
                raise
        else:
            return node
    raise AssertionError("unreachable")


def until(what: Callable[[], object], patience_s: float) -> None:
    """Wait for something to be so.

    Raises:
        TimeoutError: It was not so in time.
    """
    end = time.monotonic() + patience_s
    while not what():
        if time.monotonic() > end:
            raise TimeoutError(f"waited {patience_s:.0f} s in vain")
        time.sleep(0.3)


def free_port() -> int:
    """Return a port of loopback that nobody has."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGTERM)
    with suppress(OSError):  # before what else the machine does, if that is granted
        os.setpriority(os.PRIO_PROCESS, 0, -15)
        Path("/proc/self/autogroup").write_text("-15")
