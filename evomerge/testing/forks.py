"""Processes that start at once: forked from one that has loaded everything they need.

A fresh interpreter spends a second on imports before it does anything. Tests that need
many short processes, to kill them or to salt their hashes, fork them instead.
"""

from __future__ import annotations

import gc
import json
import os
import runpy
import select
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


class ForkServer:
    """A process that has loaded a script, and runs it again and again in forks.

    Args:
        script: Defines ``main(argument: str)``; all that it imports is loaded once.
        salt: Of string hashes, in all the forks.
        environment: Of the server and its forks; this process's if not given.
    """

    def __init__(
        self, script: Path, salt: int, environment: Mapping[str, str] | None = None
    ) -> None:
        self._server = subprocess.Popen(
            [sys.executable, "-W", "ignore", "-m", __name__, str(script)],
            env={**(environment or os.environ), "PYTHONHASHSEED": str(salt)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    def run(
        self,
        argument: str,
        log: Path,
        when_stopped: Callable[[int], None] = lambda pid: None,
    ) -> int:
        """Run the script in a fork to its end.

        Args:
            argument: Given to ``main``.
            log: Standard error of the fork, written anew; what it prints goes into a
                file beside it that ends in ``.out``.
            when_stopped: Called with the fork's process id when it stopped itself, and
                has to let it go on.

        Returns:
            Its exit code; minus the signal that ended it.
        """
        assert self._server.stdin is not None
        self._server.stdin.write(json.dumps([argument, str(log)]) + "\n")
        pid, status = self._read(), None
        try:
            while status is None or os.WIFSTOPPED(status):
                if status is not None:
                    when_stopped(pid)
                status = self._read()
        except BaseException:
            self._server.kill()
            raise
        return os.waitstatus_to_exitcode(status)

    def is_running(self) -> bool:
        """Tell whether the fork that was let go on has not ended since."""
        assert self._server.stdout is not None
        return not select.select([self._server.stdout.fileno()], [], [], 0)[0]

    def close(self) -> None:
        """End the server."""
        self._server.kill()
        self._server.communicate()

    def _read(self) -> int:
        assert self._server.stdout is not None
        line = self._server.stdout.readline()
        assert line, "the fork server ended; standard error says why"
        return int(line)


def _serve(script: str) -> None:
    main = runpy.run_path(script)["main"]
    gc.collect()
    gc.freeze()  # or every fork would look through, and copy, all that is loaded
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    while line := sys.stdin.readline():
        argument, log = json.loads(line)
        child = os.fork()
        if child == 0:
            _run(main, argument, log)
        answers.write(f"{child}\n")
        status = None
        while status is None or os.WIFSTOPPED(status):
            status = os.waitpid(child, os.WUNTRACED)[1]
            answers.write(f"{status}\n")


def _run(main: Callable[[str], Any], argument: str, log: str) -> None:
    """Be the fork: run the script, and end without what the server would clean up."""
    files = {0: os.devnull, 1: str(Path(log).with_suffix(".out")), 2: log}
    for descriptor, file in files.items():
        how = os.O_WRONLY | os.O_CREAT | os.O_TRUNC if descriptor else os.O_RDONLY
        os.dup2(os.open(file, how, 0o600), descriptor)
    code = 0
    try:
        main(argument)
    except SystemExit as ended:
        code = ended.code if isinstance(ended.code, int) else 1
    except BaseException:  # noqa: BLE001 - the outermost call of a process
        traceback.print_exc()
        code = 1
    sys.stdout.flush()
    os._exit(code)


if __name__ == "__main__":
    _serve(sys.argv[1])
