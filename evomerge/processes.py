"""Whether a process of this machine still lives."""

from __future__ import annotations

import os
from pathlib import Path

_PROC = Path("/proc")
_DEAD_STATES = "ZXx"


def is_alive(pid: int, started: str = "") -> bool:
    """Tell whether a process may still run; False only if it is certainly gone.

    Args:
        pid: Its number, which others get when it is gone.
        started: What ``start_of`` said of it; empty if that is not known.
    """
    if started:
        return start_of(pid) == started
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def start_of(pid: int) -> str | None:
    """Clock ticks from boot to the process's start; None if it is gone or unknown."""
    try:
        stat = (_PROC / str(pid) / "stat").read_text()
    except OSError:
        return None
    # The second field is the program's name in brackets and may hold anything.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in _DEAD_STATES else fields[19]
