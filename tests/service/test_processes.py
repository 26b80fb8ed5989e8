"""Processes of a supervisor: no shell, a log, their own session, and no orphans."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from evomerge.processes import is_alive
from evomerge.service.processes import ChildProcess, Command

SLEEP = "import time; time.sleep(60)"


def python(folder: Path, code: str, *words: str, **environment: str) -> Command:
    line = [sys.executable, "-c", code, *words]
    return Command(line, folder, folder / "log", environment)


def wait_for(what: Callable[[], object], patience_s: float = 20.0) -> None:
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


def ended(command: Command) -> tuple[int, str]:
    process = ChildProcess(command)
    wait_for(lambda: process.poll() is not None)
    code = process.poll()
    assert code is not None
    return code, process.last_words()


def test_codes_and_last_words_come_back(tmp_path: Path) -> None:
    code = "import sys; print('one'); print('two'); sys.exit(75)"
    assert ended(python(tmp_path, code)) == (75, "two")
    # What an earlier process wrote is not this one's.
    assert ended(python(tmp_path, "raise SystemExit(3)")) == (3, "")
    said = "print('x'); print('Error: a.yaml: no\\nb.yaml: no')"
    assert ended(python(tmp_path, said)) == (0, "a.yaml: no\nb.yaml: no")
    assert ended(python(tmp_path, "print('x' * 9000)"))[1] == "x" * 1000
    assert (tmp_path / "log").stat().st_mode & 0o777 == 0o600


def test_words_reach_the_program_as_they_are(tmp_path: Path) -> None:
    word = "$(touch x); `touch y` 'z"
    code = "import os, sys; print(sys.argv[1] + os.environ['SECRET'])"
    command = python(tmp_path, code, word, SECRET="s3")
    assert ended(command) == (0, word + "s3")
    assert "s3" not in repr(command)
    assert [path.name for path in tmp_path.iterdir()] == ["log"]


def test_a_process_is_stopped_and_killed_with_what_it_started(tmp_path: Path) -> None:
    process = ChildProcess(python(tmp_path, SLEEP))
    process.stop()
    wait_for(lambda: process.poll() == -signal.SIGTERM)
    deaf = (
        "import signal, subprocess, sys; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
        f"p = subprocess.Popen([sys.executable, '-c', {SLEEP!r}]);"
        "print(p.pid, flush=True); p.wait()"
    )
    process = ChildProcess(python(tmp_path, deaf))
    wait_for(process.last_words)
    grandchild = int(process.last_words())
    process.stop()
    process.kill()
    wait_for(lambda: process.poll() == -signal.SIGKILL)
    wait_for(lambda: not is_running(grandchild))
    process.kill()  # of one that is gone: nothing


def is_running(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in "ZX" and is_alive(pid)


def test_what_cannot_be_started_is_told(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="No such file"):
        ChildProcess(python(tmp_path / "absent", SLEEP))


PARENT = f"""
import sys, threading, time
from pathlib import Path
from evomerge.service.processes import ChildProcess, Command
folder = Path(sys.argv[1])
def start():
    command = Command([sys.executable, "-c", {SLEEP!r}], folder, folder / "log")
    print(ChildProcess(command).pid, flush=True)
thread = threading.Thread(target=start)
thread.start()
thread.join()
time.sleep(60)
"""


def test_a_child_ends_with_its_supervisors_process_and_not_with_a_thread(
    tmp_path: Path,
) -> None:
    line = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        time.sleep(0.5)  # the thread that asked for the child has ended
        assert is_running(child)
        os.kill(parent.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(child))
