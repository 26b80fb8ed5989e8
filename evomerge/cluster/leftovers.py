"""What a Ray of ours may leave behind, folders and processes, and how it is removed.

All of it is known by the folder: its name holds the process that made it, and Ray's own
processes name it in their command lines or write their output there.
"""

from __future__ import annotations

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from evomerge.processes import is_alive

TEMP_PREFIX = "em-ray-"
_PROC = Path("/proc")
_OUTPUTS = ("1", "2")


def sweep(folder: Path) -> None:
    """Remove what killed processes of this user left of their Ray in a folder."""
    for left in folder.glob(f"{TEMP_PREFIX}*-*"):
        pid = left.name.removeprefix(TEMP_PREFIX).split("-", 1)[0]
        is_ours = left.is_dir() and left.lstat().st_uid == os.getuid()
        if pid.isdecimal() and is_ours and not is_alive(int(pid)):
            end_processes(left)
            shutil.rmtree(left, ignore_errors=True)


def end_processes(folder: Path) -> None:
    """Kill every process of this user that belongs to the Ray in a folder.

    Does nothing where the system does not tell of processes (only Linux does).
    """
    for pid in list(_processes_of(folder)):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)  # a child of ours is gone when it was waited for


def _processes_of(folder: Path) -> Iterator[int]:
    within = f"{folder}/"
    for process in _PROC.glob("[0-9]*"):
        pid = int(process.name)
        with suppress(OSError):
            if pid == os.getpid() or process.stat().st_uid != os.getuid():
                continue
            words = os.fsdecode((process / "cmdline").read_bytes())
            # As an option's value: somebody may be reading a log there.
            if f"={within}" in words or any(
                str((process / "fd" / number).readlink()).startswith(within)
                for number in _OUTPUTS
            ):
                yield pid
