"""What measures, in a few facts."""

from __future__ import annotations

import os
import platform
from pathlib import Path

import torch


def devices() -> list[str]:
    """Return what merges are computed on here, as torch names it."""
    return ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


def facts() -> dict[str, object]:
    """Describe the machine."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    known: dict[str, object] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "load before": round(os.getloadavg()[0], 1),
        "memory GB": round(memory / 1e9, 1),
        "python": platform.python_version(),
        "torch": torch.__version__,
    }
    if torch.cuda.is_available():
        known["gpu"] = torch.cuda.get_device_name()
    return known


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return platform.processor()
    names = [line.split(":", 1)[1].strip() for line in lines if "model name" in line]
    return names[0] if names else platform.machine()
