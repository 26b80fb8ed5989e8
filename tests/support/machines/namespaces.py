"""Network namespaces by name; those of owners that are gone are swept."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
from pathlib import Path

PREFIX = "evm-"
_NAMED = Path("/run/netns")


def ip(*words: str) -> str:
    """Run ``ip``, which must succeed; return what it printed."""
    done = subprocess.run(["ip", *words], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise OSError(f"ip {' '.join(words)}: {done.stderr.strip()}")
    return done.stdout


def name_of(what: str, owner: int) -> str:
    """Return the name of a namespace of a process."""
    return f"{PREFIX}{owner}-{what}"


def sweep(folder: Path) -> None:
    """Remove what owners left that are gone: namespaces, and folders in a folder.

    Their processes have ended with them.
    """
    for path in (*_NAMED.glob(f"{PREFIX}*-*"), *folder.glob(f"{PREFIX}*-*")):
        owner = path.name.removeprefix(PREFIX).partition("-")[0]
        if not owner.isdigit() or not _is_gone(int(owner)):
            continue
        if path.parent == _NAMED:
            ip("netns", "del", path.name)
        else:
            shutil.rmtree(path, ignore_errors=True)


def _is_gone(pid: int) -> bool:
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return stat.rpartition(")")[2].split()[0] in "ZX"


@functools.cache
def refusal() -> str | None:
    """Say why machines cannot be pretended here; None if they can."""
    missing = [name for name in ("ip", "unshare", "nsenter") if not shutil.which(name)]
    if missing:
        return f"there is no {', '.join(missing)} (iproute2, util-linux)"
    if os.geteuid() != 0:
        return "only root may make network namespaces"
    probe = name_of("probe", os.getpid())
    try:
        ip("netns", "add", probe)
    except OSError as error:
        return f"namespaces are not granted here: {error}"
    words = ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--uts", "true"]
    try:
        ip("-n", probe, "link", "add", "name", "br0", "type", "bridge")
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    except OSError as error:
        return f"there is no bridge: {error}"
    finally:
        ip("netns", "del", probe)
    return done.stderr.strip() or None
