"""The floor: how fast bytes move when nothing is done with them."""

from __future__ import annotations

import time

import torch
from merging.loop import settle


class Copy:
    """A copy of one large tensor to another, too large for any cache."""

    def __init__(self, n_bytes: int, device: str) -> None:
        self._device = device
        self._n_bytes = n_bytes
        self._source = torch.ones(n_bytes // 2, dtype=torch.bfloat16, device=device)
        self._target = torch.zeros_like(self._source)

    def bandwidth(self) -> float:
        """Copy once; return bytes read and written, per second."""
        settle(self._device)
        began = time.perf_counter()
        self._target.copy_(self._source)
        settle(self._device)
        return 2 * self._n_bytes / (time.perf_counter() - began)
