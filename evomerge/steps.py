"""What is being done now, for whoever watches: steps, how far they are, what is left.

Whoever begins something that may take long says so (``step``), and how much of it is
done. A command that is watched shows it; elsewhere nobody looks, and nothing is said.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeVar

Clock = Callable[[], float]
_T = TypeVar("_T")
BYTES = "bytes"
"""Unit of a step that is told in megabytes or gigabytes."""
PERCENT = "%"
"""Unit of a step of which only the share counts."""


class Step:
    """Something that is being done; any thread may say how far it is.

    Attributes:
        began: When, in seconds of the clock.
        mark: What is said under another one is shown at once.
    """

    def __init__(
        self, name: str, total: float | None, unit: str, steps: Steps | None = None
    ) -> None:
        self._name, self._total, self._unit = name, total, unit
        self._steps = steps
        self._clock = time.monotonic if steps is None else steps.clock
        self._done = 0.0
        self._said: str | None = None
        self._paused_s = 0.0
        self._lock = threading.Lock()
        self.mark: object = None
        self.began = self._clock()

    def to(self, done: float, total: float | None = None) -> None:
        """Say how much is done, and of how much."""
        self._done = done
        self._total = self._total if total is None else total

    def advance(self, n: float = 1) -> None:
        """Say that so much more is done."""
        with self._lock:
            self._done += n

    def say(self, text: str, mark: object = None) -> None:
        """Say in words how things stand, instead of name and numbers."""
        is_new = mark != self.mark
        self._said, self.mark = text, mark
        if is_new and self._steps is not None:
            self._steps.look()

    def pause(self, seconds: float) -> None:
        """Leave time out of the estimate: another step took it."""
        self._paused_s += seconds

    @property
    def left_s(self) -> float | None:
        """Estimated seconds to its end; None before something is done."""
        if not self._total or not self._done:
            return None
        took_s = self._clock() - self.began - self._paused_s
        return max(0.0, took_s / self._done * (self._total - self._done))

    @property
    def line(self) -> str:
        """How things stand, in one line."""
        if self._said is not None:
            return self._said
        seconds = self._clock() - self.began
        if not self._total:
            return f"{self._name}, {seconds:.0f} s" if seconds >= 1 else self._name
        left_s = self.left_s
        ends = "" if left_s is None else f", {clock_words(left_s)} left"
        return f"{self._name}: {self._amount}{ends}"

    @property
    def _amount(self) -> str:
        total = self._total or 0.0
        if self._unit == BYTES:
            scale, name = (1e9, "GB") if total >= 1e9 else (1e6, "MB")
            return f"{self._done / scale:.1f} of {total / scale:.1f} {name}"
        if self._unit == PERCENT:
            return f"{self._done / total:.0%}"
        return f"{self._done:.0f} of {total:.0f} {self._unit}".rstrip()


class Steps:
    """What one thread is at: steps within steps.

    Attributes:
        begun: Called at each step within no other.
        look: Called where something is said that is to be shown at once.
    """

    def __init__(self, clock: Clock = time.monotonic) -> None:
        self.clock = clock
        self.begun: Callable[[], None] = lambda: None
        self.look: Callable[[], None] = lambda: None
        self._stack: list[Step] = []

    @property
    def current(self) -> Step | None:
        """The innermost step; None between steps."""
        stack = self._stack
        return stack[-1] if stack else None

    @contextmanager
    def entered(self, one: Step) -> Iterator[None]:
        """Be at a step within the block; the one around it waits meanwhile."""
        around = self.current
        self._stack.append(one)
        if around is None:
            self.begun()
        try:
            yield
        finally:
            self._stack.remove(one)
            if around is not None:
                around.pause(self.clock() - one.began)


_watched: ContextVar[Steps | None] = ContextVar("steps", default=None)


@contextmanager
def watched(steps: Steps) -> Iterator[None]:
    """Let this thread's steps be seen within the block."""
    token = _watched.set(steps)
    try:
        yield
    finally:
        _watched.reset(token)


@contextmanager
def step(name: str, total: float | None = None, unit: str = "") -> Iterator[Step]:
    """Say what is being done within the block.

    Args:
        name: As in "starting the engine".
        total: How much there is to do, if that can be said.
        unit: Of that; ``BYTES``, or a noun.
    """
    steps = _watched.get()
    one = Step(name, total, unit, steps)
    if steps is None:
        yield one
        return
    with steps.entered(one):
        yield one


def through(name: str, items: Collection[_T], unit: str) -> Iterator[_T]:
    """Yield items; how many are done with is told as a step."""
    with step(name, len(items), unit) as now:
        for item in items:
            yield item
            now.advance()


def clock_words(seconds: float) -> str:
    """Write a time as m:ss or h:mm:ss."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
