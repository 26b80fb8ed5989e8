"""How many blocks a worker is handed at once, and when helping another is worth it.

Small calls starve an engine, large ones leave nothing to share. So the first trials are
scored in calls of growing size, each of other blocks, and the last of all that is left;
from then on as few blocks go out at once as keep nearly the rate of that last call.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

USUAL = 2
"""Blocks that are handed out at once where no more are needed."""
N_LAST = 4
"""Portions at the end of a trial, which may be smaller, so that many can help."""
FEWEST = 6
"""Blocks of a trial that is worth sharing out."""
KEPT = 0.95
"""Share of an engine's throughput that must be left."""
N_MEASURED = 2
"""Trials that are measured; what is in of them decides."""

Call = tuple[int, int, float]
"""Blocks, items and seconds of one call of the engine."""


class Portions:
    """What is known of the cost of blocks, of calls and of swaps."""

    def __init__(self, n_measured: int = N_MEASURED) -> None:
        """Begin with nothing known; so many trials are to be measured."""
        self._n_wanted = n_measured
        self._ratios: dict[int, list[float]] = defaultdict(list)
        self._swaps = (0, 0.0)
        self._blocks = (0, 0.0)

    @property
    def size(self) -> int | None:
        """Fewest blocks to hand out at once; None for all of a trial."""
        for size, ratios in sorted(self._ratios.items()):
            if KEPT * sum(ratios) / len(ratios) <= 1:
                return size
        return None

    @property
    def swap_s(self) -> float:
        """Seconds that swapping a candidate in takes, on average."""
        n, seconds = self._swaps
        return seconds / n if n else 0.0

    @property
    def block_s(self) -> float | None:
        """Seconds of a block, on average; None before there was one."""
        n, seconds = self._blocks
        return seconds / n if n else None

    def growing(self, n_blocks: int) -> tuple[int, ...]:
        """Return the calls of a trial that is to be measured; empty if it is not."""
        if not self._n_wanted or n_blocks < FEWEST:
            return ()
        calls: list[int] = []
        size = 1
        while n_blocks - sum(calls) - size >= 2 * size:
            calls.append(size)
            size *= 2
        self._n_wanted -= 1
        return (*calls, n_blocks - sum(calls))

    def measured(self, calls: Sequence[Call]) -> None:
        """Learn what a trial's calls took; the last was of all that was left."""
        *small, (_, n_items, seconds) = calls
        best = seconds / n_items
        for n_blocks, n_items, seconds in small:
            ratio = seconds / n_items / best if best > 0 else 1.0
            self._ratios[n_blocks].append(ratio)

    def swapped(self, seconds: float) -> None:
        """Learn what a swap took; none took place if it was nothing."""
        if seconds > 0:
            n, sum_s = self._swaps
            self._swaps = (n + 1, sum_s + seconds)

    def scored(self, seconds: Iterable[float]) -> None:
        """Learn what the blocks of one part took."""
        found = list(seconds)
        n, sum_s = self._blocks
        self._blocks = (n + len(found), sum_s + sum(found))


def in_calls(n_blocks: int, size: int | None) -> tuple[int, ...]:
    """Cut blocks into calls of one size; empty if that is one call."""
    if size is None or size >= n_blocks:
        return ()
    whole, rest = divmod(n_blocks, size)
    return (size,) * whole + ((rest,) if rest else ())
