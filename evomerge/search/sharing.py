"""Which way an attempt is handed out, and what its parts tell of the next ones."""

from __future__ import annotations

from collections.abc import Mapping

from evomerge.search.attempt import Part, Running, Way
from evomerge.search.portions import USUAL, Portions, in_calls
from evomerge.search.required_items import RequiredItems

_SWAP = ("materialise", "swap")
_SLOW = 1.5
"""So many times the average is slow."""


class Sharing:
    """Decides over portions and calls; outlives a hold of the lease.

    Nothing here changes what comes out of a trial: only who scores what, and when.
    """

    def __init__(
        self,
        *,
        is_on: bool = True,
        times_by_block: bool = False,
        portions: Portions | None = None,
    ) -> None:
        """Begin without work.

        Args:
            is_on: Attempts may be shared out.
            times_by_block: Where the speed of trials is measured, ask the engine block
                by block, as it was when the study began.
            portions: What is known of costs; None if nothing is.
        """
        self.portions = portions or Portions()
        self._is_on = is_on
        self._times_by_block = times_by_block

    def way(self, n_blocks: int, *, is_timed: bool, is_alone: bool) -> Way:
        """Choose how the blocks of an attempt go out.

        Args:
            n_blocks: How many there are.
            is_timed: The trial's speed is measured: it is not shared.
            is_alone: There is no other worker.
        """
        if is_timed:
            return Way(calls=in_calls(n_blocks, 1 if self._times_by_block else None))
        if calls := self.portions.growing(n_blocks):
            return Way(calls=calls, is_measured=True)
        size = self.portions.size
        if size is None or size >= n_blocks:
            return Way()
        if self._is_on and not is_alone:
            return Way(portion=max(size, USUAL), last=size)
        return Way(calls=in_calls(n_blocks, max(size, USUAL)))

    def is_small(self, running: Running, n_pending: int, n_at_work: int) -> bool:
        """Tell whether the next part is to be as small as those that end a trial.

        Towards the end of a generation a trial's pace should be known soon, and no
        part of a slow one last for long.

        Args:
            running: The attempt.
            n_pending: Trials that can be begun.
            n_at_work: Workers that are at something.
        """
        pace_s, usual_s = running.block_s, self.portions.block_s
        if pace_s is None:
            return n_pending < n_at_work
        return not n_pending and usual_s is not None and pace_s > _SLOW * usual_s

    def learn(
        self,
        running: Running,
        part: Part,
        seconds: Mapping[str, float],
        items: RequiredItems,
    ) -> None:
        """Learn from a part whose every block is reported.

        Args:
            running: Its attempt.
            part: The part.
            seconds: Time by kind of work.
            items: Those of every block.
        """
        self.portions.swapped(sum(seconds.get(kind, 0.0) for kind in _SWAP))
        self.portions.scored(part.took.values())
        if running.way.is_measured:
            calls = [
                (len(blocks), items.n_of(blocks), spent)
                for blocks, spent in part.call_times()
            ]
            self.portions.measured(calls)
