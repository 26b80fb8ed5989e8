"""SIGTERM as Ctrl-C: schedulers send it, and a search must give its study back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn


class Stop:
    """The first signal that asked the program to stop.

    What is raised cannot say which it was: a library that waits in C (Ray) raises a
    KeyboardInterrupt of its own in its place.
    """

    def __init__(self) -> None:
        self._number = signal.SIGINT

    @property
    def exit_code(self) -> int:
        """The code shells give a program that this signal ended: 130 or 143."""
        return 128 + self._number

    @contextmanager
    def once(self) -> Iterator[None]:
        """End what runs at the first signal, in order; at the second, at once."""
        if threading.current_thread() is not threading.main_thread():
            yield  # only the main thread may set them
            return
        numbers = (signal.SIGINT, signal.SIGTERM)
        before = {number: signal.signal(number, self._stop) for number in numbers}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _stop(self, number: int, _frame: FrameType | None) -> NoReturn:
        self._number = signal.Signals(number)
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_DFL)
        raise KeyboardInterrupt
