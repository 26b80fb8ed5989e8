"""Which running trial would be done last, so that those who are free help there.

Whoever asks is often one of hundreds, so what has not changed is not looked at again:
ranks are kept in a heap, and those of trials that changed are made anew. A trial of
which nothing is reported has no pace of its own. Such have a heap to themselves, in
blocks: what a block takes on average changes all the time, and for all of them alike.
Once the first part of one takes longer than is usual, its pace is reckoned from that:
were it waited for, nobody could help the slowest of all in time.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple

from evomerge.search.attempt import Part, Running
from evomerge.search.portions import Portions

_MANY = 64
"""Outdated entries that a heap may hold beside as many as it has trials."""
_LONG = 1.5
"""So many times what a block takes on average is longer than usual."""
_STILL = 1.5
"""What has taken so long takes so many times as long, until it is done."""
_AGAIN = 1.25
"""So many times later it is looked at again."""


class _Entry(NamedTuple):
    """A trial as it was when it was ranked.

    Attributes:
        rank: Blocks its workers still have, and one, negative: the last one begins no
            sooner than all others, so those of a slow trial are begun in time. In
            seconds where the trial has a pace of its own.
        left: The same without the one.
        pace_s: Seconds of a block, as reported or reckoned; None if it may be as usual.
    """

    rank: float
    number: int
    left: float
    pace_s: float | None


class Ranking:
    """Open trials by when they would be done, were nobody to help."""

    def __init__(self, open_: Mapping[int, Running]) -> None:
        """Rank the trials of a mapping, which is its owner's to change."""
        self._open = open_
        self._changed: set[int] = set()
        self._now: dict[int, _Entry] = {}
        self._costs: tuple[float, float | None] = (0.0, None)
        self._not_worth: list[_Entry] = []  # at these costs
        self._heaps: dict[bool, list[_Entry]] = {True: [], False: []}  # has a pace
        self._due: list[tuple[float, int]] = []  # when to look at whom again

    def change(self, number: int) -> None:
        """Note that a trial came, went, or is not as it was."""
        self._changed.add(number)

    def last(
        self, costs: Portions, is_shut: Callable[[int], bool], now: float
    ) -> Running | None:
        """Return the trial that would be done last of those worth a swap.

        Args:
            costs: What a swap and a block take.
            is_shut: Tells by number which trials are not to be considered.
            now: In seconds, of the clock by which parts begin.
        """
        self._refresh(costs, now)
        aside: list[_Entry] = []
        found: Running | None = None
        while (top := self._top(costs)) is not None:
            is_left_out = is_shut(top.number)
            # Less is left with every second: who comes first now did so before.
            fresh = _entry(self._open[top.number], top.pace_s, costs, now)
            if fresh != top:
                self._now[top.number] = fresh
                heapq.heapreplace(self._heaps[top.pace_s is not None], fresh)
                continue
            if not is_left_out and _is_worth(top, costs):
                found = self._open[top.number]
                break
            heapq.heappop(self._heaps[top.pace_s is not None])
            (aside if is_left_out else self._not_worth).append(top)
        self._push(aside)
        return found

    def _push(self, entries: Iterable[_Entry]) -> None:
        for entry in entries:
            heapq.heappush(self._heaps[entry.pace_s is not None], entry)

    def _refresh(self, costs: Portions, now: float) -> None:
        while self._due and self._due[0][0] <= now:
            self._changed.add(heapq.heappop(self._due)[1])
        known = (costs.swap_s, costs.block_s)
        if known != self._costs:
            self._costs = known
            self._push(self._not_worth)
            self._not_worth.clear()
        for number in self._changed:
            running = self._open.get(number)
            if running is None:
                self._now.pop(number, None)
                continue
            pace_s = running.block_s
            if pace_s is None:
                pace_s = self._reckoned(running, costs, now)
            self._now[number] = _entry(running, pace_s, costs, now)
            self._push((self._now[number],))
        self._changed.clear()
        if sum(map(len, self._heaps.values())) > 2 * len(self._now) + _MANY:
            for heap in self._heaps.values():
                heap[:] = [e for e in heap if self._now.get(e.number) is e]
                heapq.heapify(heap)

    def _reckoned(self, running: Running, costs: Portions, now: float) -> float | None:
        """Return the pace of a trial whose first part takes longer than is usual."""
        first = next(iter(running.parts.values()), None)
        if costs.block_s is None or first is None or first.began is None:
            return None
        began = first.began + costs.swap_s
        spent_s = (now - began) / len(first.blocks)
        long_s = _LONG * costs.block_s
        again_s = max(long_s, _AGAIN * spent_s) * len(first.blocks)
        heapq.heappush(self._due, (began + again_s, running.trial.number))
        return _STILL * spent_s if spent_s >= long_s else None

    def _top(self, costs: Portions) -> _Entry | None:
        """Return the last of all; None also while nothing is known of any pace."""
        for heap in self._heaps.values():
            while heap and self._now.get(heap[0].number) is not heap[0]:
                heapq.heappop(heap)
        own, common = self._heaps[True], self._heaps[False]
        if not common or costs.block_s is None:
            return own[0] if own else None
        is_own = bool(own) and own[0].rank <= common[0].rank * costs.block_s
        return own[0] if is_own else common[0]


def _entry(
    running: Running, pace_s: float | None, costs: Portions, now: float
) -> _Entry:
    in_hand = sum(_in_hand(part, pace_s, costs, now) for part in running.parts.values())
    left = (len(running.unstarted) + in_hand) / max(1, len(running.parts))
    scale = 1.0 if pace_s is None else pace_s
    return _Entry(-(left + 1) * scale, running.trial.number, left * scale, pace_s)


def _in_hand(part: Part, pace_s: float | None, costs: Portions, now: float) -> float:
    """Return how many blocks of a part are still to be done, as far as can be told."""
    if pace_s is None or pace_s <= costs.swap_s or part.began is None:
        return len(part.left) / 2  # half of it done, on average
    done = (now - part.began) / pace_s
    return max(0.0, min(len(part.blocks) - done, float(len(part.left))))


def _is_worth(entry: _Entry, costs: Portions) -> bool:
    if entry.pace_s is not None:
        return entry.left > costs.swap_s + entry.pace_s / 2
    block_s = costs.block_s or 0.0
    return entry.left * block_s > costs.swap_s + block_s / 2
