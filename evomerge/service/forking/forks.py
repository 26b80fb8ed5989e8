"""Processes that are forks of one, which is started once and has loaded everything."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from typing import Any

from evomerge import processes
from evomerge.service.environment import passed_on
from evomerge.service.processes import (
    ChildProcess,
    Command,
    Log,
    Process,
    start_with_parent,
)

MODULES = (
    *("evomerge.cli.app", "evomerge.api.running", "evomerge.api.preparing"),
    *("evomerge.api.staged", "evomerge.scoring.simulated.engine"),
    *("evomerge.strategies.cma", "evomerge.strategies.tpe"),
    *("evomerge.store.databases.postgres", "evomerge.store.databases.sqlite"),
    *("psycopg", "sqlalchemy.dialects.postgresql.psycopg"),
)
"""What coordinators load; nothing that reads a token or starts a thread on its way."""

_SERVER = "evomerge.service.forking.server"
_MODULE = [sys.executable, "-m"]
_AT_ONCE = 1 << 16
_LOADING_S = 60.0
"""Whoever has not loaded everything in so long may never have."""


class Forks:
    """Starts ``python -m MODULE ...`` by forking a process that has loaded it.

    That one is started at once, and anew when it was lost; its children end with it,
    as it ends with this process. Only on Linux, and for modules; everything else is
    started as ever. One thread's at a time.

    Args:
        modules: What is loaded; those that are not there are left out. None for no
            forks at all.
    """

    def __init__(self, modules: Sequence[str] | None = MODULES) -> None:
        self._modules = modules or ()
        self._is_closed = modules is None or sys.platform != "linux"
        self._server = None if self._is_closed else _Line(self._modules)

    def start(self, command: Command) -> Process:
        """Start a process.

        Raises:
            OSError: It cannot be started.
        """
        server = self._there() if [*command.words[:2]] == _MODULE else None
        if server is None:
            return ChildProcess(command)
        log = Log(command.log)
        try:
            return _Fork(server, command, log)
        finally:
            log.close()

    def is_ready(self) -> bool:
        """Tell whether a process would be there at once, or waiting is of no use."""
        server = self._there()
        return server is None or server.was_of_use or server.age_s > _LOADING_S

    def _there(self) -> _Line | None:
        """Return a server that was not lost; None if there can be none."""
        if self._is_closed or self._server is None:
            return None
        if self._server.is_lost():
            if not self._server.was_of_use:
                self._is_closed = True  # it cannot be had here
                return None
            self._server = _Line(self._modules)
        return self._server

    def close(self) -> None:
        """Start no more by forking, and end what was; idempotent."""
        self._is_closed = True
        if self._server is not None:
            self._server.close()


class _Line:
    """The way to a server: orders go there, answers come back."""

    def __init__(self, modules: Sequence[str]) -> None:
        self._begun = time.monotonic()
        self._near, far = socket.socketpair()
        words = [sys.executable, "-m", _SERVER, *modules]
        with far:
            self._popen = start_with_parent(words, passed_on(), far.fileno())
        self._text = b""
        self._n_orders = 0
        self._is_cut = False
        self.was_of_use = False
        self.answers: dict[int, dict[str, Any]] = {}

    @property
    def age_s(self) -> float:
        """Seconds since the server was started."""
        return time.monotonic() - self._begun

    def is_lost(self) -> bool:
        """Tell whether the server is gone."""
        self.listen()
        return self._is_cut

    def order(self, command: Command, log: int) -> int:
        """Order a process and return its name here."""
        self._n_orders += 1
        environment = {**passed_on(), **command.environment}
        self.answers[self._n_orders] = {}
        line = _line(
            start=self._n_orders,
            words=list(command.words[2:]),
            folder=str(command.folder),
            environment=environment,
        )
        with suppress(OSError):  # who is lost does not start it, which is seen later
            sent = socket.send_fds(self._near, [line], [log])
            self._near.sendall(line[sent:])
        return self._n_orders

    def signal(self, name: int, number: signal.Signals, *, group: bool) -> None:
        """Have a signal sent."""
        with suppress(OSError):
            self._near.sendall(_line(signal=name, number=number, group=group))

    def listen(self) -> None:
        """Take in what was answered; waits for nothing."""
        while not self._is_cut:
            try:
                text = self._near.recv(_AT_ONCE, socket.MSG_DONTWAIT)
            except BlockingIOError:
                return
            except OSError:
                text = b""
            self._is_cut = not text
            *lines, self._text = (self._text + text).split(b"\n")
            for line in lines:
                answer = json.loads(line)
                self.was_of_use = True
                if (name := answer.get("started", answer.get("ended"))) is not None:
                    self.answers[name] |= answer

    def close(self) -> None:
        """Hang up, and wait for the server's end."""
        self._near.close()
        self._is_cut = True
        try:
            self._popen.wait(10)
        except subprocess.TimeoutExpired:
            self._popen.kill()
            self._popen.wait()


def _line(**order: Any) -> bytes:
    return json.dumps(order).encode() + b"\n"


class _Fork:
    """A ``Process`` that a server started, or has yet to start."""

    def __init__(self, server: _Line, command: Command, log: Log) -> None:
        self._server = server
        self._log = log
        self._name = server.order(command, log.descriptor)
        self._code: int | None = None

    @property
    def pid(self) -> int | None:
        """Its number, None as long as it was not started."""
        self._server.listen()
        found: int | None = self._server.answers[self._name].get("pid")
        return found

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, None while it runs."""
        if self._code is None:
            is_lost = self._server.is_lost()
            self._code = self._server.answers[self._name].get("code")
            if self._code is None and is_lost and not self._lives():
                self._code = -signal.SIGTERM  # with its server; nobody knows better
        return self._code

    def stop(self) -> None:
        """Send SIGTERM; a coordinator gives its study back and ends."""
        self._signal(signal.SIGTERM, os.kill)

    def kill(self) -> None:
        """Send SIGKILL to its session's processes."""
        self._signal(signal.SIGKILL, os.killpg)

    def last_words(self) -> str:
        """Return its last error as it was told, or else the last line."""
        return self._log.last_words()

    def _signal(self, number: signal.Signals, send: Callable[[int, int], None]) -> None:
        if not self._server.is_lost():
            self._server.signal(self._name, number, group=send is os.killpg)
        elif self._lives() and self.pid is not None:
            with suppress(ProcessLookupError):
                send(self.pid, number)

    def _lives(self) -> bool:
        answer = self._server.answers[self._name]
        return "pid" in answer and processes.is_alive(answer["pid"], answer["ticks"])
