"""What is left of a study's budget."""

from __future__ import annotations

import math
import time
from collections.abc import Callable

from evomerge.core.study import Budget
from evomerge.core.work import GpuTime
from evomerge.store.base import Store, Usage


class GpuWatch:
    """Tells when GPU time is used up, between two looks at what is left of it.

    It reckons with every worker being at work, so it may say so early, never late; the
    next look knows better.
    """

    def __init__(self) -> None:
        self._ends = math.inf

    def look(self, time: GpuTime | None, gpus: float, now: float) -> None:
        """Learn what is left.

        Args:
            time: That; None for any.
            gpus: Those of all of this study's workers.
            now: In seconds, of the clock of ``is_used``.
        """
        self._ends = math.inf
        if time is not None and (at_once := gpus + time.elsewhere) > 0:
            self._ends = now + time.left_s / at_once

    def is_used(self, now: float) -> bool:
        """Tell whether nothing may be begun any more."""
        return now >= self._ends


class BudgetWatch:
    """Compares a budget with what the store says is used, and with the clock."""

    def __init__(
        self,
        budget: Budget,
        store: Store,
        study_id: int,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._budget = budget
        self._store = store
        self._study_id = study_id
        self._clock = clock
        self._recorded_at = clock()
        self._read: Usage | None = None
        self._items_since = 0
        self._items_unrecorded = 0
        self._seconds_since = 0.0
        self._reserved = self._per_trial = 0

    @property
    def unrecorded_s(self) -> float:
        """Wall seconds of this run that the store does not know of yet."""
        return self._clock() - self._recorded_at

    def take_unrecorded(self) -> float:
        """Return the unrecorded seconds, to be recorded by the caller now."""
        now = self._clock()
        seconds, self._recorded_at = now - self._recorded_at, now
        self._seconds_since += seconds
        return seconds

    def note_items(self, n_items: int) -> None:
        """Learn of items scored; some may prove free of charge."""
        self._items_since += n_items
        self._items_unrecorded += n_items

    def recorded(self, n_items: int) -> None:
        """Learn that items scored are in the store now."""
        self._items_unrecorded -= n_items

    def reserve(self, n_items: int, per_trial: int) -> None:
        """Keep items for the end, and ask no candidate that what is left cannot pay.

        Args:
            n_items: For the end.
            per_trial: Most that a candidate takes.
        """
        self._reserved, self._per_trial = n_items, per_trial

    def room(self) -> int | None:
        """Return how many more candidates may be asked; None for any number."""
        budget, usage, rooms = self._budget, self._usage(), list[int]()
        if budget.trials is not None:
            rooms.append(budget.trials - usage.trials)
        if budget.items is not None and self._per_trial:
            left = budget.items - self._reserved - usage.items - self._items_since
            rooms.append(left // self._per_trial)
        return max(0, min(rooms)) if rooms else None

    def spent(self) -> str | None:
        """Say which limit is reached, if one is."""
        budget, usage = self._budget, self._usage()
        if budget.trials is not None and usage.trials >= budget.trials:
            return "trial budget used"
        if self._per_trial and self.room() == 0:
            return "item budget used"
        return self._spent_inside(usage.items + self._items_since, usage.seconds)

    def allows(self, generation: int) -> bool:
        """Tell whether another trial of a generation may start.

        Generation 0 costs no items. Trials were counted when they were asked. The
        store is asked only when the limits may be near.
        """
        if self._budget.items is None and self._budget.seconds is None:
            return True
        if self._read is not None:
            n_items = self._read.items + self._items_since if generation > 0 else 0
            seconds = self._read.seconds + self._seconds_since
            if self._spent_inside(n_items, seconds) is None:
                return True
        usage = self._usage()
        n_items = usage.items + self._items_since if generation > 0 else 0
        return self._spent_inside(n_items, usage.seconds) is None

    def items_left(self, generation: int, enough: int) -> int | None:
        """Return how many items may be scored beyond those recorded; None for any.

        Args:
            generation: Of the trials they are for; generation 0 costs none.
            enough: The store is asked only if what is known here may be less.
        """
        limit = self._budget.items
        if limit is None or generation == 0:
            return None
        if self._read is not None:
            left = limit - self._read.items - self._items_since
            if left >= enough:
                return left
        return limit - self._usage().items - self._items_since

    def _usage(self) -> Usage:
        self._read = self._store.usage(self._study_id)
        self._items_since, self._seconds_since = self._items_unrecorded, 0.0
        return self._read

    def _spent_inside(self, n_items: int, recorded_s: float) -> str | None:
        budget = self._budget
        if budget.items is not None and n_items >= budget.items:
            return "item budget used"
        seconds = recorded_s + self.unrecorded_s
        if budget.seconds is not None and seconds >= budget.seconds:
            return "time budget used"
        return None
