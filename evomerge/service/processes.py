"""Processes of a supervisor: they end with it, and say by a code how they ended."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from evomerge.service.environment import passed_on

_SHIM = Path(__file__).with_name("die_with_parent.py")
_TAIL_BYTES = 4096
_LONGEST = 1000
_ERROR = "Error: "

_STARTER = ThreadPoolExecutor(1, "starts-processes")
"""The kernel ends children with the *thread* that started them, so that is one which
lives as long as the process; the executor stays for that reason alone."""


@dataclass(frozen=True)
class Command:
    """What is to run.

    Attributes:
        words: The program and its arguments; no shell reads them.
        folder: Where it runs.
        log: What it writes is added to this file.
        environment: Variables beside those that ``passed_on`` gives: secrets are no
            arguments, which every user of the machine can see.
    """

    words: Sequence[str]
    folder: Path
    log: Path
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)


class Process(Protocol):
    """A process that was started."""

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, None while it runs."""

    def stop(self) -> None:
        """Ask it to end in order."""

    def kill(self) -> None:
        """End it, and what it started, at once."""

    def last_words(self) -> str:
        """Return the last that it wrote, empty if it wrote nothing."""


class Log:
    """What a process adds to a file that others wrote to before.

    Args:
        file: Made if it is not there.

    Raises:
        OSError: It cannot be opened.

    Attributes:
        descriptor: Of the file, open for the process that is being started.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        how = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC
        self.descriptor = os.open(file, how, 0o600)
        self._begin = os.fstat(self.descriptor).st_size

    def close(self) -> None:
        """Close the descriptor; what was said can still be read."""
        os.close(self.descriptor)

    def last_words(self) -> str:
        """Return the last error as it was told, or else the last line.

        Where lines are JSON, the message of one.
        """
        with self._file.open("rb") as file:
            size = file.seek(0, os.SEEK_END)
            file.seek(max(self._begin, size - _TAIL_BYTES))
            text = file.read().decode(errors="replace").strip()
        start = text.rfind(f"\n{_ERROR}") + 1
        if text.startswith(_ERROR, start):
            return text[start + len(_ERROR) :][:_LONGEST]
        lines = [_line(line) for line in text.splitlines()] or [("", "")]
        errors = [message for level, message in lines if level == "error"]
        return (errors or [lines[-1][1]])[-1][:_LONGEST]


class ChildProcess:
    """A ``Process`` of this machine, in a session of its own.

    Args:
        command: What to run.

    Raises:
        OSError: It cannot be started.
    """

    def __init__(self, command: Command) -> None:
        self._log = Log(command.log)
        try:
            self._popen = _STARTER.submit(
                _start, command, self._log.descriptor
            ).result()
        finally:
            self._log.close()

    @property
    def pid(self) -> int:
        """Its number."""
        return self._popen.pid

    def poll(self) -> int | None:
        """Return its exit code, negative for a signal, None while it runs."""
        return self._popen.poll()

    def stop(self) -> None:
        """Send SIGTERM; a coordinator gives its study back and ends."""
        self._popen.terminate()

    def kill(self) -> None:
        """Send SIGKILL to its session's processes."""
        if self._popen.poll() is None:
            with suppress(ProcessLookupError):
                os.killpg(self._popen.pid, signal.SIGKILL)

    def last_words(self) -> str:
        """Return its last error as it was told, or else the last line."""
        return self._log.last_words()


def start_with_parent(
    words: Sequence[str], environment: Mapping[str, str], stdin: int
) -> subprocess.Popen[bytes]:
    """Start a program that gets SIGTERM when this process ends, in its own session.

    Raises:
        OSError: It cannot be started.
    """

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [*_shim(), *words], env=environment, stdin=stdin, start_new_session=True
        )

    return _STARTER.submit(start).result()


def _line(text: str) -> tuple[str, str]:
    """Return level and message of a line; of one that is not JSON, the line."""
    if not text.startswith("{"):
        return "", text
    try:
        found = json.loads(text)
        return str(found["level"]), str(found["message"])
    except (ValueError, LookupError, TypeError, RecursionError):
        return "", text


def _start(command: Command, log: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [*_shim(), *command.words],
        cwd=command.folder,
        env={**passed_on(), **command.environment},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        start_new_session=True,
        umask=0o077,
    )


def _shim() -> list[str]:
    return [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
