"""The device of a merge: its threads, its free memory, and whether sources lie there.

What is read for every candidate should be as near as it fits. On a CPU that is the page
cache, so sources stay mapped files.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Literal

import torch

from evomerge.errors import SetupError

_NO_LIMIT = 1 << 60
"""What a control group without a limit says it has, or more."""
_OF_DEVICE = 0.8
"""Part of the device's free memory that sources may take; merges need the rest."""
_OF_MEMORY = 0.5
"""Part of the machine's free memory that pinned sources may take."""


def check_device(device: str) -> None:
    """Make sure that tensors can be put on a device.

    Raises:
        SetupError: There is no such device here.
    """
    try:
        kind = torch.device(device).type
        if kind not in ("cpu", "cuda"):
            raise RuntimeError(f"merges run on cpu or cuda, not on {kind}")
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        said = str(error).splitlines()[0]
        raise SetupError(
            f"Device {device!r} cannot be used: {said}. Use cpu, or cuda on a machine "
            "where torch finds one."
        ) from error


@contextmanager
def on_threads(number: int | None) -> Iterator[None]:
    """Let torch, and merges with it, use so many threads; None leaves it as it is."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


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


Placement = Literal["gpu", "pinned", "mmap"]


def place(size_bytes: int, device: torch.device) -> Placement:
    """Choose where sources of this size lie, from what is free now."""
    if device.type == "cpu":
        return "mmap"
    free, _ = torch.cuda.mem_get_info(device)
    return choose(size_bytes, free, available_memory())


def choose(size_bytes: int, device_bytes: int, memory_bytes: int | None) -> Placement:
    """Choose where sources lie.

    Args:
        size_bytes: What they need.
        device_bytes: Free on the device.
        memory_bytes: Free in the machine; None if that is not known.
    """
    if size_bytes <= _OF_DEVICE * device_bytes:
        return "gpu"
    if memory_bytes is not None and size_bytes <= _OF_MEMORY * memory_bytes:
        return "pinned"
    return "mmap"
