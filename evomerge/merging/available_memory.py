"""How much memory this process may still take."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_NO_LIMIT = 1 << 60
"""What a control group without a limit says it has, or more."""


def available_memory(root: Path = Path("/")) -> int | None:
    """Return how many bytes this process may still take; None if that is not known.

    That is the least of what the machine has available and of what every control group
    leaves that the process is in.

    Args:
        root: Where ``proc`` and ``sys`` are.
    """
    free = _free(root / "proc")
    known = [*([] if free is None else [free]), *_left_in_groups(root)]
    return min(known, default=None)


def _free(proc: Path) -> int | None:
    """Read what the machine has available."""
    for line in _lines(proc / "meminfo"):
        name, _, rest = line.partition(":")
        if name == "MemAvailable":
            return int(rest.split()[0]) * 1024
    return None


def _left_in_groups(root: Path) -> Iterator[int]:
    """Read what control groups leave, of version 2 and of version 1."""
    groups = root / "sys" / "fs" / "cgroup"
    for line in _lines(root / "proc" / "self" / "cgroup"):
        number, controllers, path = line.split(":", 2)
        if number == "0":
            names = ("memory.max", "memory.current", "")
            yield from _left_in(groups, path, *names)
        elif "memory" in controllers.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_")
            yield from _left_in(groups / "memory", path, *names)


def _left_in(
    top: Path, path: str, limit_name: str, used_name: str, prefix: str
) -> Iterator[int]:
    """Read what a group and those around it leave; inside a container it is the top."""
    inside = PurePosixPath(path.lstrip("/"))
    for group in (top / one for one in (inside, *inside.parents)):
        try:
            limit = int((group / limit_name).read_text(encoding="ascii"))
            used = int((group / used_name).read_text(encoding="ascii"))
        except (OSError, ValueError):  # not there, or without a limit ("max")
            continue
        if limit < _NO_LIMIT:
            pages = dict(line.split() for line in _lines(group / "memory.stat"))
            # Page cache can go.
            names = (f"{prefix}inactive_file", f"{prefix}active_file")
            cached = sum(int(pages.get(name, 0)) for name in names)
            yield max(limit - used + cached, 0)


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text(encoding="ascii").splitlines()
    except OSError:
        return []
