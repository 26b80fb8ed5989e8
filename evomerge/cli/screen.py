"""What a command is at, on standard error: rewritten on a terminal, else in lines."""

from __future__ import annotations

import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

import click

from evomerge.steps import Clock, Step, Steps, watched

FIRST_S = 1.0
"""A step that takes longer is told; before, the command may be done."""
EVERY_S = 5.0
"""Without a terminal something is told as often, whatever it is at."""
OFF = "off"
"""Of ``EVOMERGE_PROGRESS``: nothing is told but what is to be told at once."""
_BLINK_S = 0.25
_SHORT_S = 0.5
_ERASE = "\r\x1b[2K"


class Screen:
    """Shows the steps of one thread; what ticks is another, or a test."""

    def __init__(self, steps: Steps, tell: Callable[[str], None]) -> None:
        self._steps, self._tell = steps, tell
        self._lock = threading.Lock()
        self._clock: Clock = steps.clock
        self._last: float | None = None  # when something was told
        self._began = self._clock()
        self._told: tuple[Step | None, object] = (None, None)

    def tick(self) -> None:
        """Tell a line, if one is due."""
        with self._lock:
            step, now = self._steps.current, self._clock()
            if step is not None and now >= self._due(step):
                self._last, self._told = now, (step, step.mark)
                self._tell(step.line)

    def _due(self, step: Step) -> float:
        told, mark = self._told
        if step.mark is not None and (step, step.mark) != (told, mark):
            return self._began
        if self._last is None:
            return self._began + FIRST_S
        regular = self._last + EVERY_S
        if step is told:
            return regular
        return min(regular, max(step.began, self._last) + FIRST_S)


class Line:
    """The last line of a terminal, rewritten as often as it ticks.

    Stands in for standard error, so that what others write there begins on a line of
    its own.
    """

    def __init__(self, steps: Steps, out: TextIO) -> None:
        self._steps, self._out = steps, out
        self._began = steps.clock()
        self._is_shown = False
        self._at_start = True
        self._lock = threading.RLock()

    def tick(self) -> None:
        """Rewrite the line, or take it away between steps."""
        step = self._steps.current
        with self._lock:
            if step is None:
                self.erase()
            elif self._is_shown and self._steps.clock() - step.began < _SHORT_S:
                pass  # it may be over before it could be read
            elif self._at_start and self._steps.clock() - self._began >= FIRST_S / 2:
                width = os.get_terminal_size(self._out.fileno()).columns or 80
                self._out.write(f"{_ERASE}{step.line[: width - 1]}")
                self._out.flush()
                self._is_shown = True

    def erase(self) -> None:
        """Take the line away."""
        with self._lock:
            if self._is_shown:
                self._is_shown = False
                self._out.write(_ERASE)
                self._out.flush()

    def write(self, text: str) -> int:
        """Write for somebody else."""
        with self._lock:
            self.erase()
            self._at_start = text.endswith("\n") or (not text and self._at_start)
            return self._out.write(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._out, name)


@contextmanager
def shown() -> Iterator[None]:
    """Show this thread's steps within the block."""
    ended, before = threading.Event(), sys.stderr

    def tick() -> None:
        while not ended.wait(_BLINK_S):
            view.tick()

    ticking = threading.Thread(target=tick, daemon=True)

    def begin() -> None:
        if ticking.ident is None:
            ticking.start()

    steps = Steps()
    if before.isatty():
        line = Line(steps, before)
        sys.stderr = line  # is all that a stream is
        view: Screen | Line = line
    else:
        view = Screen(steps, _tell)
    steps.look = view.tick
    if os.environ.get("EVOMERGE_PROGRESS") != OFF:
        steps.begun = begin
    try:
        with watched(steps):
            yield
    finally:
        ended.set()
        if ticking.ident is not None:
            ticking.join()
        if isinstance(view, Line):
            view.erase()
            sys.stderr = before


def _tell(text: str) -> None:
    from evomerge import logs

    if logs.is_json():
        logs.tell(text)
    else:
        click.echo(text, err=True)
