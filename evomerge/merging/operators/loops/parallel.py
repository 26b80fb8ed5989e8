"""Work on the entries of a tensor, in parts, on as many threads as torch uses."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor, wait
from functools import lru_cache

import torch

Loop = Callable[[int, int], int]
"""Works on the entries from one place to another; not zero if something is amiss."""


BLOCK = 2048
"""Compiled code tosses coins, and adds up, for so many entries at a time."""
SMALL = 1 << 15
"""Below this many entries compiled code saves nothing worth compiling it for."""
WORTHWHILE = 1 << 18
"""Fewest entries that are worth a thread of their own."""


def over_entries(loop: Loop, n: int) -> bool:
    """Run a compiled loop over ``n`` entries, in parts that begin at whole blocks.

    Returns:
        Whether every part returned zero.
    """
    return in_parts(loop, n, multiple_of=BLOCK, least=WORTHWHILE)


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
    lows = iter(range(0, n, part))

    def work() -> bool:
        return all(loop(low, min(low + part, n)) == 0 for low in lows)

    others = [_pool(threads, os.getpid()).submit(work) for _ in range(threads - 1)]
    try:
        well = work()
    finally:
        # One that has not begun is not waited for: nothing is left for it to do, and
        # it may stand behind the very work that this is a part of.
        begun = [other for other in others if not other.cancel()]
        wait(begun)
    return all([well, *(other.result() for other in begun)])


@lru_cache(maxsize=4)
def _pool(threads: int, process: int) -> ThreadPoolExecutor:
    """Return threads of this process: a forked one has none of its parent's."""
    return ThreadPoolExecutor(threads, thread_name_prefix="merge")
