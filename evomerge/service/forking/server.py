"""A process that has loaded what others need, and becomes one of them by a fork.

``python -m evomerge.service.forking.server MODULE...`` loads the modules it can, then
takes orders from the socket that is its standard input, a JSON object a line::

    {"start": 7, "words": [...], "folder": ..., "environment": {...}}   and a log's fd
    {"signal": 7, "number": 15, "group": false}

and answers ``{"ready": true}`` once, ``{"started": 7, "pid": ..., "ticks": ...}`` and
``{"ended": 7, "code": ...}``. A child is waited for here, so its number is nobody
else's while it has a name here. When the socket is closed this process ends, and its
children get SIGTERM; so they do when it is killed. It has one thread, or a fork would
not be safe.
"""

from __future__ import annotations

import ctypes
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import sys
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

from evomerge.exit_codes import ExitCode
from evomerge.processes import start_of

_SET_PDEATHSIG = 1  # of prctl
_AT_ONCE = 1 << 16


class _Orders:
    """Orders as they come, each with the descriptor that came with it."""

    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._text = b""
        self._logs: list[int] = []
        self.is_open = True

    def read(self) -> list[dict[str, Any]]:
        """Return the orders that are complete."""
        text, logs, _, _ = socket.recv_fds(self._end, _AT_ONCE, 8)
        self.is_open = bool(text)
        self._logs += logs
        *lines, self._text = (self._text + text).split(b"\n")
        return [json.loads(line) for line in lines]

    def log(self) -> int:
        """Take the next descriptor: they come before the end of their orders."""
        return self._logs.pop(0)


class _Server:
    def __init__(self, end: socket.socket) -> None:
        self._end = end
        self._orders = _Orders(end)
        self._children: dict[int, int] = {}
        self._woken, self._waker = os.pipe()
        for number in (self._woken, self._waker):
            os.set_blocking(number, False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(self._waker, warn_on_full_buffer=False)

    def serve(self) -> Sequence[str] | None:
        """Take orders until there are no more.

        Returns:
            What to run, in a child; None in the process itself.
        """
        self._tell(ready=True)
        while self._orders.is_open:
            wanted = [self._end.fileno(), self._woken]
            ready, _, _ = select.select(wanted, [], [])
            if self._woken in ready:
                os.read(self._woken, _AT_ONCE)
            self._reap()
            if self._end.fileno() not in ready:
                continue
            for order in self._orders.read():
                if "start" not in order:
                    self._signal(order)
                elif (words := self._start(order)) is not None:
                    return words
        return None

    def _start(self, order: dict[str, Any]) -> Sequence[str] | None:
        log = self._orders.log()
        parent = os.getpid()
        try:
            pid = os.fork()
        except OSError as error:  # too many processes, or no memory: for now
            os.write(log, f"Error: cannot fork: {error}\n".encode())
            os.close(log)
            self._tell(ended=order["start"], code=ExitCode.TRY_AGAIN)
            return None
        if pid == 0:
            self._let_go()
            return _become(order, log, parent)
        os.close(log)
        self._children[pid] = order["start"]
        self._tell(started=order["start"], pid=pid, ticks=start_of(pid) or "")
        return None

    def _let_go(self) -> None:
        """In a child: forget what is its parent's."""
        signal.set_wakeup_fd(-1)
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        for number in (self._end.detach(), self._woken, self._waker):
            os.close(number)

    def _signal(self, order: dict[str, Any]) -> None:
        for pid, name in self._children.items():
            if name == order["signal"]:
                send = os.killpg if order["group"] else os.kill
                with suppress(ProcessLookupError):  # it is just ending
                    send(pid, order["number"])

    def _reap(self) -> None:
        while self._children:
            pid, status = os.waitpid(-1, os.WNOHANG)
            if pid == 0:
                return
            code = os.waitstatus_to_exitcode(status)
            self._tell(ended=self._children.pop(pid), code=code)

    def _tell(self, **answer: Any) -> None:
        self._end.sendall(json.dumps(answer).encode() + b"\n")


def _become(order: dict[str, Any], log: int, parent: int) -> Sequence[str]:
    """Make of this child what was ordered; return what it is to run."""
    os.setsid()
    nothing = os.open(os.devnull, os.O_RDONLY)
    for source, target in ((nothing, 0), (log, 1), (log, 2)):
        os.dup2(source, target)
    for number in {nothing, log} - {0, 1, 2}:
        os.close(number)
    ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it was gone before it was wished for
        os._exit(128 + signal.SIGTERM)
    os.umask(0o077)
    os.chdir(order["folder"])
    os.environ.clear()
    os.environ.update(order["environment"])
    words: Sequence[str] = order["words"]
    return words


def main(modules: Sequence[str]) -> None:
    """Load modules and serve; in a child, run what was ordered."""
    with socket.socket(fileno=os.dup(0)) as end:
        for name in modules:
            with suppress(ImportError):  # an extra that is not installed
                importlib.import_module(name)
        gc.collect()
        gc.freeze()  # or the first collection of each child would copy all of it
        words = _Server(end).serve()
    if words is not None:
        sys.argv = list(words)
        runpy.run_module(words[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    main(sys.argv[1:])
