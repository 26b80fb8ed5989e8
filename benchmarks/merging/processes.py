"""A command run to its end: how long it takes, and how much memory.

On Linux the memory of the command and of all it starts is read from ``/proc`` while it
runs. The peak of anonymous memory is what a merge needs; the resident peak also has
pages of mapped files, which the system takes back when it wants them.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_LOOK_S = 0.01
_FIND_S = 0.5


@dataclass(frozen=True, slots=True)
class Cost:
    """What a run took.

    Attributes:
        seconds: Wall time.
        anonymous_bytes: Peak of what is backed by no file; None where nobody tells.
        resident_bytes: Peak of all of it.
    """

    seconds: float
    anonymous_bytes: int | None
    resident_bytes: int | None

    def at_best(self, other: Cost) -> Cost:
        """Return the shorter time and the larger memory of two runs."""
        return Cost(
            min(self.seconds, other.seconds),
            _larger(self.anonymous_bytes, other.anonymous_bytes),
            _larger(self.resident_bytes, other.resident_bytes),
        )


def run(command: Sequence[str], environment: Mapping[str, str]) -> Cost:
    """Run a command and watch it.

    Raises:
        RuntimeError: It failed; with the end of what it printed.
    """
    with tempfile.TemporaryFile() as log:
        began = time.perf_counter()
        process = subprocess.Popen(
            command, env={**os.environ, **environment}, stdout=log, stderr=log
        )
        watch = _Watch(process.pid)
        while process.poll() is None:
            watch.look()
            time.sleep(_LOOK_S)
        seconds = time.perf_counter() - began
        if process.returncode:
            log.seek(0)
            said = log.read().decode(errors="replace")[-2000:]
            raise RuntimeError(f"{' '.join(command)} failed:\n{said}")
    return Cost(seconds, watch.anonymous, watch.resident)


class _Watch:
    """Peaks of a process and its descendants, summed at each look."""

    def __init__(self, pid: int) -> None:
        self.anonymous: int | None = None
        self.resident: int | None = None
        self._root = pid
        self._pids = [pid]
        self._found = time.monotonic()

    def look(self) -> None:
        """Read once."""
        if time.monotonic() - self._found > _FIND_S:
            self._pids = _tree(self._root)
            self._found = time.monotonic()
        known = [status for pid in self._pids if (status := _status(pid))]
        if known:
            anonymous = sum(s.get("RssAnon", 0) + s.get("RssShmem", 0) for s in known)
            self.anonymous = _larger(self.anonymous, anonymous)
            # The kernel's own peak: of one process it cannot be missed between looks.
            resident = sum(s.get("VmHWM", 0) for s in known)
            self.resident = _larger(self.resident, resident)


def _larger(one: int | None, other: int | None) -> int | None:
    return max((n for n in (one, other) if n is not None), default=None)


def _status(pid: int) -> dict[str, int]:
    """Return a process's sizes in bytes; nothing if it is gone."""
    try:
        lines = (_PROC / str(pid) / "status").read_text().splitlines()
    except OSError:
        return {}
    pairs = (line.split(":", 1) for line in lines if line.endswith(" kB"))
    return {name: 1024 * int(value.split()[0]) for name, value in pairs}


def _tree(root: int) -> list[int]:
    """Return a process and all its descendants."""
    parents: dict[int, int] = {}
    for folder in _PROC.glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rsplit(")", 1)[1].split()[1])
    tree = {root}
    while more := {p for p, parent in parents.items() if parent in tree} - tree:
        tree |= more
    return sorted(tree)
