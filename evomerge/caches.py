"""Where a machine keeps what can be made again; every node of a cluster its own."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """Return ``EVOMERGE_CACHE``, or else this user's cache folder for evomerge."""
    if own := os.environ.get("EVOMERGE_CACHE"):
        return Path(own).expanduser().absolute()
    root = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(root) / "evomerge"
