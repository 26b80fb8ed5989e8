"""What kind of file system a path lies on."""

from __future__ import annotations

import re
from pathlib import Path

MOUNTS = Path("/proc/self/mountinfo")

_NETWORK = frozenset(
    {
        *("afs", "beegfs", "ceph", "cifs", "coda", "gpfs", "lustre", "ncpfs", "nfs"),
        *("nfs4", "orangefs", "panfs", "pvfs2", "smb2", "smb3", "smbfs", "wekafs"),
    }
)
_NETWORK_FUSE = frozenset(
    {
        *("ceph", "gcsfuse", "glusterfs", "goofys", "juicefs", "mfs", "rclone"),
        *("s3fs", "seaweedfs", "sshfs"),
    }
)
_ESCAPED = re.compile(r"\\([0-7]{3})")


def network_kind(path: Path) -> str | None:
    """Return the kind of network file system a path lies on, None if it is local.

    Where the operating system does not tell (only Linux does), every path counts as
    local.
    """
    kind = _kind(path.resolve())
    if kind is None:
        return None
    name = kind.removeprefix("fuse.")
    networks = _NETWORK_FUSE if name != kind else _NETWORK
    return name if name in networks else None


def _kind(path: Path) -> str | None:
    """Return the file system type of the innermost mount point above a path."""
    try:
        lines = MOUNTS.read_text().splitlines()
    except OSError:
        return None
    best: tuple[int, str] | None = None
    for line in lines:
        front, found, back = line.partition(" - ")
        if not found:
            continue
        point = Path(_ESCAPED.sub(_character, front.split(" ")[4]))
        # A later mount on the same point hides the earlier one.
        if path.is_relative_to(point) and (best is None or len(point.parts) >= best[0]):
            best = (len(point.parts), back.split(" ")[0])
    return best[1] if best else None


def _character(match: re.Match[str]) -> str:
    return chr(int(match.group(1), 8))
