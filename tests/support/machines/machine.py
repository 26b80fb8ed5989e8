"""One pretended machine: namespaces of network, processes, mounts and host name."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from support.machines.namespaces import ip, name_of

_DIE_WITH_PARENT = 1  # PR_SET_PDEATHSIG
_PATIENCE_S = 10.0
_DISK = "size=64m"
_BALLAST = "ballast"
_FIRST = "-15"
# A machine's first process: mounts its own disks, then buries the dead.
_INIT = """
import os, signal, socket, subprocess, sys
name, options, *disks = sys.argv[1:]
socket.sethostname(name)
for disk in disks:
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, name, disk], check=True)
signal.signal(signal.SIGCHLD, lambda *_: None)
print("up", flush=True)
while True:
    try:
        os.waitpid(-1, 0)
    except ChildProcessError:
        signal.sigtimedwait([signal.SIGCHLD], 1)
"""


class Running:
    """A process on a machine, which was let in by another one that waits for it."""

    def __init__(self, entry: subprocess.Popen[bytes]) -> None:
        self._entry = entry

    @property
    def pid(self) -> int:
        """Its number as this process sees it; of one that has not ended."""
        return _child_of(self._entry.pid)

    def go_first(self) -> None:
        """Give it and what it starts the processor before other programs.

        A raylet gives its agent, a Python process, 15 s to start, and ends: on a busy
        machine that is little, and of two raylets one may not come up.
        """
        with suppress(OSError):  # no groups of processes by session
            Path(f"/proc/{self.pid}/autogroup").write_text(_FIRST)
        os.setpriority(os.PRIO_PROCESS, self.pid, int(_FIRST))

    def poll(self) -> int | None:
        """Return its exit code, None while it runs."""
        return self._entry.poll()

    def wait(self, timeout_s: float) -> int:
        """Wait for its end; return its exit code."""
        return self._entry.wait(timeout_s)

    def kill(self) -> None:
        """End it at once."""
        with suppress(OSError):
            os.kill(self.pid, signal.SIGKILL)

    def stop(self) -> None:
        """Ask it to end."""
        with suppress(OSError):
            os.kill(self.pid, signal.SIGTERM)


class Machine:
    """Its processes see each other, its own network and its own mounts, no more.

    Args:
        name: Its host name.
        address: On the cluster's network.
        folder: For its logs and its own files.
        disks: Folders in which it has small disks of its own.
    """

    def __init__(
        self, name: str, address: str, folder: Path, disks: Sequence[Path]
    ) -> None:
        self.name = name
        self.address = address
        self.folder = folder
        self.network = name_of(name, os.getpid())
        self._disks = disks
        self._shell: subprocess.Popen[bytes] | None = None
        self._init = 0
        folder.mkdir(parents=True, exist_ok=True)

    @property
    def port(self) -> str:
        """Name of the switch's end of its cable."""
        return f"p-{self.name}"[:15]

    def power_on(self) -> None:
        """Start it, without any program."""
        words = ["ip", "netns", "exec", self.network, "unshare", "--mount", "--uts"]
        words += ["--pid", "--fork", "--kill-child", "--mount-proc"]
        words += [sys.executable, "-I", "-S", "-c", _INIT, self.name, _DISK]
        words += map(str, self._disks)
        self._shell = subprocess.Popen(
            words,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            start_new_session=True,
            preexec_fn=_die_with_parent,
        )
        assert self._shell.stdout is not None
        if self._shell.stdout.readline() != b"up\n":
            raise OSError(f"machine {self.name} did not start")
        self._init = _child_of(self._shell.pid)

    def run(
        self, words: Sequence[str], log: str, environment: Mapping[str, str]
    ) -> Running:
        """Start a program on it.

        Args:
            words: The program and its arguments.
            log: Name of the file in its folder to which the program's words are added.
            environment: Beside this process's own.
        """
        with (self.folder / log).open("ab") as out:
            entry = subprocess.Popen(
                ["nsenter", "-t", str(self._init), "-n", "-m", "-p", "-u", *words],
                cwd=self.folder,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
                preexec_fn=_die_with_parent,
            )
        return Running(entry)

    def pids(self) -> list[int]:
        """Return its processes, as this process numbers them."""
        if self._shell is None:
            return []
        own = Path(f"/proc/{self._init}/ns/pid").readlink()
        found = []
        for path in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if (path / "ns" / "pid").readlink() == own:
                    found.append(int(path.name))
        return found

    def named(self, part: str) -> list[int]:
        """Return its processes whose command lines hold these words."""
        found = []
        for pid in self.pids():
            with suppress(OSError):
                line = Path(f"/proc/{pid}/cmdline").read_bytes()
                if part.encode() in line.replace(b"\0", b" "):
                    found.append(pid)
        return found

    def kill_all(self) -> None:
        """Kill every program on it; the machine stays on."""
        while left := [pid for pid in self.pids() if pid != self._init]:
            for pid in left:
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            time.sleep(0.05)

    def power_off(self) -> None:
        """Take its power away: every process of it is gone; idempotent."""
        if self._shell is not None:
            self._shell.kill()  # its first process, and with it all others, follow
            self._shell.wait()
            assert self._shell.stdout is not None
            self._shell.stdout.close()
            self._shell = None
            _until_gone(self._init)

    def fill_disk(self) -> None:
        """Write to its disks until nothing more fits."""
        for disk in self._disks:
            words = ["dd", "if=/dev/zero", f"of={disk}/{_BALLAST}", "bs=64k"]
            assert self.run(words, "disk.log", {}).wait(_PATIENCE_S) != 0

    def free_disk(self) -> None:
        """Give room again."""
        for disk in self._disks:
            words = ["rm", f"{disk}/{_BALLAST}"]
            assert self.run(words, "disk.log", {}).wait(_PATIENCE_S) == 0

    def block(self, other: Machine) -> None:
        """Throw away what is sent to another machine, and nothing else."""
        ip("-n", self.network, "route", "add", "blackhole", f"{other.address}/32")

    def unblock(self, other: Machine) -> None:
        """Send to it again."""
        ip("-n", self.network, "route", "del", "blackhole", f"{other.address}/32")


def _child_of(pid: int) -> int:
    """Return the one child of a process, when it is there."""
    file = Path(f"/proc/{pid}/task/{pid}/children")
    end = time.monotonic() + _PATIENCE_S
    while time.monotonic() < end:
        if children := file.read_text().split():
            return int(children[0])
        time.sleep(0.01)
    raise OSError(f"process {pid} has started nothing")


def _until_gone(pid: int) -> None:
    end = time.monotonic() + _PATIENCE_S
    while Path(f"/proc/{pid}").exists() and time.monotonic() < end:
        time.sleep(0.01)


def _die_with_parent() -> None:
    ctypes.CDLL(None).prctl(_DIE_WITH_PARENT, signal.SIGKILL)
