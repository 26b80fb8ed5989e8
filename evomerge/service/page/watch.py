"""What was read of jobs a moment ago: several people look, and look again and again.

To read a study costs with its length. It is read anew at most every other second, and
so seldom that reading takes a tenth of the time; one at rest is read once.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

from evomerge.client.verbs import EVENTS_PAGE, Verbs
from evomerge.errors import StudyNotFoundError
from evomerge.service.page.view import EVENTS_SHOWN, LOG_BYTES, Study, log_end
from evomerge.store.queue.values import Job, JobEvent, JobState

FRESH_S = 2.0
_IDLE_PER_READ = 9.0
_MOST_JOBS = 500

_T = TypeVar("_T")


@dataclass
class _Kept:
    """A value and when it is to be read anew."""

    value: Any = None
    job: Job | None = None
    until: float = 0.0


@dataclass
class _Entry:
    """What is remembered of one job."""

    lock: threading.Lock = field(default_factory=threading.Lock)
    glance: _Kept = field(default_factory=_Kept)
    whole: _Kept = field(default_factory=_Kept)
    events: deque[JobEvent] = field(default_factory=lambda: deque(maxlen=EVENTS_SHOWN))
    last_event: int = 0
    log: bytes = b""
    log_next: int = 0


class Watch:
    """Reads jobs at a desk, for any number of threads.

    Whoever asks has been shown the job already: that it may be seen is the desk's to
    say, for each request anew.

    Args:
        clock: Seconds of a clock that ticks.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[tuple[str, str], _Entry] = OrderedDict()

    def glance(self, desk: Verbs, job: Job) -> Study:
        """Return status and stages of a job's study alone."""
        entry = self._entry(job)
        with entry.lock:
            return self._fresh(entry.glance, job, lambda: _status(desk, job))

    def study(self, desk: Verbs, job: Job) -> Study:
        """Return what is recorded of a job's study; nothing before it has begun."""
        entry = self._entry(job)
        with entry.lock:
            return self._fresh(entry.whole, job, lambda: _whole(desk, job))

    def events(self, desk: Verbs, job: Job) -> Sequence[JobEvent]:
        """Return a job's last events, oldest first."""
        entry = self._entry(job)
        with entry.lock:
            while found := desk.events(job.address, entry.last_event):
                entry.events.extend(found)
                entry.last_event = found[-1].number
                if len(found) < EVENTS_PAGE:
                    break
            return tuple(entry.events)

    def log(self, desk: Verbs, job: Job) -> str:
        """Return the end of a job's log."""
        entry = self._entry(job)
        with entry.lock:
            while (part := desk.log(job.address, entry.log_next)).text:
                # One byte more tells that the first line may be cut.
                entry.log = (entry.log + part.text)[-LOG_BYTES - 1 :]
                entry.log_next = part.next
            return log_end(entry.log)

    def _entry(self, job: Job) -> _Entry:
        # Another job of this name was submitted at another time.
        key = job.address, job.created
        with self._lock:
            entry = self._entries.setdefault(key, _Entry())
            self._entries.move_to_end(key)
            if len(self._entries) > _MOST_JOBS:
                self._entries.popitem(last=False)
            return entry

    def _fresh(self, kept: _Kept, job: Job, read: Callable[[], _T]) -> _T:
        began = self._clock()
        at_rest = job.state.is_final or job.state is JobState.PAUSED
        if not (at_rest and kept.job == job) and began >= kept.until:
            kept.value = read()
            now = self._clock()
            kept.job = job
            kept.until = now + max(FRESH_S, _IDLE_PER_READ * (now - began))
        found: _T = kept.value
        return found


def _status(desk: Verbs, job: Job) -> Study:
    try:
        found = desk.status(job.address)
    except StudyNotFoundError:
        return Study()
    return Study(stages=found) if isinstance(found, list) else Study(status=found)


def _whole(desk: Verbs, job: Job) -> Study:
    begun = _status(desk, job)
    with suppress(StudyNotFoundError):  # of a study with stages there are only these
        return Study(
            begun.status,
            begun.stages,
            desk.front(job.address),
            desk.trials(job.address),
            desk.attempts(job.address),
        )
    return begun
