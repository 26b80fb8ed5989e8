"""Work on the entries of a tensor, in parts, on as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache

import torch

Loop = Callable[[int, int], int]
"""Works on the entries from one place to another; not zero if something is amiss."""


def in_parts(loop: Loop, n: int, *, multiple_of: int, least: int) -> bool:
    """Run a loop from 0 to ``n`` in parts, on as many threads as torch uses.

    Args:
        loop: May be called from several threads at once.
        n: End.
        multiple_of: Parts begin at multiples of this.
        least: Fewest entries that are worth a part.

    Returns:
        Whether every part returned zero.
    """
    threads = min(torch.get_num_threads(), -(-n // least))
    if threads <= 1:
        return loop(0, n) == 0
    # More parts than threads: a thread the machine holds up does fewer.
    part = max(-(-n // (4 * threads)), least)
    part = -(-part // multiple_of) * multiple_of
    lows = range(0, n, part)
    highs = [min(low + part, n) for low in lows]
    return not any(list(_pool(threads, os.getpid()).map(loop, lows, highs)))


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")
