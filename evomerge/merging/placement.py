"""Where sources lie while candidates are merged: on the device, pinned, or mapped.

What is read for every candidate should be as near as it fits. On a CPU that is the page
cache, so sources stay mapped files.
"""

from __future__ import annotations

from typing import Literal

import torch

from evomerge.merging.available_memory import available_memory

Placement = Literal["gpu", "pinned", "mmap"]

_OF_DEVICE = 0.8
"""Part of the device's free memory that sources may take; merges need the rest."""
_OF_MEMORY = 0.5
"""Part of the machine's free memory that pinned sources may take."""


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
