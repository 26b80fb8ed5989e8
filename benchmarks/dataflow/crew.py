"""Several searches at once, each in a process with an engine of its own."""

from __future__ import annotations

import multiprocessing as mp
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import Any

from dataflow.search import Place, Result, run
from dataflow.setting import Job, Setting

_told: Any = None
"""In a worker: where progress goes."""


def work(
    jobs: Sequence[tuple[Setting, Job]],
    place: Place,
    n_processes: int,
    on_result: Callable[[Result], None],
) -> None:
    """Run every search; results come as they are ready."""
    watch = _Watch(len(jobs) * place.trials)
    if n_processes == 1:
        for setting, job in jobs:
            on_result(run(setting, job, place, watch.tell))
        watch.end()
        return
    # Not forked: engines have threads.
    context = mp.get_context("spawn")
    queue = context.Queue()
    reader = threading.Thread(target=_read, args=(queue, watch), daemon=True)
    reader.start()
    with ProcessPoolExecutor(n_processes, context, _begin, (queue,)) as pool:
        waiting = [pool.submit(_run, setting, job, place) for setting, job in jobs]
        try:
            for done in as_completed(waiting):
                on_result(done.result())
        except BaseException:
            # What is recorded stays; searches at work go on at the next start.
            for process in (pool._processes or {}).values():
                process.terminate()
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    watch.end()


def _begin(queue: Any) -> None:
    global _told
    _told = queue


def _run(setting: Setting, job: Job, place: Place) -> Result:
    last = [0]

    def tell(name: str, done: int) -> None:
        if done != last[0]:
            last[0] = done
            _told.put((name, done))

    return run(setting, job, place, tell)


def _read(queue: Any, watch: _Watch) -> None:
    while True:
        watch.tell(*queue.get())


class _Watch:
    """One line that says how far all is, and how long it will take."""

    def __init__(self, total: int) -> None:
        self._total = total
        self._done: dict[str, int] = {}
        self._first: dict[str, int] = {}
        self._began = time.monotonic()
        self._said = 0.0

    def tell(self, name: str, done: int) -> None:
        """Take note of a search; says something at most once a second."""
        self._first.setdefault(name, done)
        self._done[name] = max(done, self._done.get(name, 0))
        now = time.monotonic()
        if now - self._said >= 1.0:
            self._said = now
            self._say(self._done)

    def end(self) -> None:
        """Leave the line."""
        if self._done:
            sys.stderr.write("\n")

    def _say(self, done: Mapping[str, int]) -> None:
        known = sum(done.values())
        fresh = known - sum(self._first.values())
        seconds = time.monotonic() - self._began
        left = ""
        if fresh > 0:
            left = f", {clock(seconds / fresh * (self._total - known))} left"
        sys.stderr.write(f"\r{known} of {self._total} candidates{left}   ")
        sys.stderr.flush()


def clock(seconds: float) -> str:
    """Write a time in minutes."""
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"
