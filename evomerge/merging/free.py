"""How much memory this process may still take."""

from __future__ import annotations

from pathlib import Path


def available_memory() -> int | None:
    """Return how many bytes this process may still take; None if that is not known."""
    known = [size for size in (_free(), _left_in_group()) if size is not None]
    return min(known, default=None)


def _free() -> int | None:
    """Read what the machine has available."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    for line in lines:
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _left_in_group() -> int | None:
    """Read what the control group of a container leaves; its page cache can go."""
    group = Path("/sys/fs/cgroup")
    try:
        limit = (group / "memory.max").read_text(encoding="ascii").strip()
        used = int((group / "memory.current").read_text(encoding="ascii"))
        details = (group / "memory.stat").read_text(encoding="ascii").splitlines()
    except (OSError, ValueError):
        return None
    if limit == "max":
        return None
    pages = dict(line.split() for line in details)
    cached = int(pages.get("inactive_file", 0)) + int(pages.get("active_file", 0))
    return max(int(limit) - used + cached, 0)
