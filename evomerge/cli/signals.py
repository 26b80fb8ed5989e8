"""SIGTERM as Ctrl-C: schedulers send it, and a search must give its study back."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import NoReturn

_STOPPING = (signal.SIGINT, signal.SIGTERM)


class Terminated(KeyboardInterrupt):
    """SIGTERM came; ends what Ctrl-C ends, in the same way."""


@contextmanager
def stop_once() -> Iterator[None]:
    """End what runs at the first signal to stop, in order; at the second, at once."""
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set them
        return
    before = {number: signal.signal(number, _stop) for number in _STOPPING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    for each in _STOPPING:
        signal.signal(each, signal.SIG_DFL)
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt
