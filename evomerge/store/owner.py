"""Who holds a lease, and whether that process still lives.

A holder that was killed frees its study at once instead of after the lease's time.
That needs certainty: process ids are reused, and two containers may share a host name
but not their processes. So an owner carries the machine's boot, the process namespace
and the start time, and anything that cannot be told counts as alive.
"""

from __future__ import annotations

import os
import socket
from pathlib import Path

from evomerge import processes
from evomerge.store.values import Owner

_PROC = Path("/proc")


def this_process() -> Owner:
    """Describe the calling process."""
    pid = os.getpid()
    return Owner(host=_this_host(), pid=pid, started=processes.start_of(pid) or "")


def host_name(owner: Owner) -> str:
    """Return the owner's host as a person knows it."""
    return owner.host.split("+", 1)[0]


def is_alive(owner: Owner) -> bool:
    """Tell whether the owner may still run; False only if it is certainly gone.

    An owner on another host, in another container or before the last reboot cannot be
    looked at from here and counts as alive.
    """
    if owner.host != _this_host():
        return True
    return processes.is_alive(owner.pid, owner.started)


def _this_host() -> str:
    """Host name, boot and process namespace: where a process id means something."""
    parts = [socket.gethostname()]
    try:
        boot = (_PROC / "sys/kernel/random/boot_id").read_text().strip()
        parts += [boot[:8], str((_PROC / "self/ns/pid").stat().st_ino)]
    except OSError:
        pass  # not Linux: the name has to do
    return "+".join(parts)
