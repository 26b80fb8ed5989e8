"""Forks of one warm process: as children of one's own, but there at once."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from evomerge.processes import is_alive, start_of
from evomerge.service.forking.forks import MODULES, Forks
from evomerge.service.processes import ChildProcess, Command, Process

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="forks on Linux only")

CHILD = """
import os, signal, subprocess, sys, time
import loaded_before
what, *words = sys.argv[1:]
if what == "tell":
    print(loaded_before.by, os.getppid(), os.environ.get("SECRET"))
    print(os.getcwd(), os.getsid(0) == os.getpid(), oct(os.umask(0)), words)
    sys.exit(75)
if what == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    print(child.pid, flush=True)
if what == "fail":
    raise ValueError("a defect")
time.sleep(60)
"""


def wait_for(what: Callable[[], object], patience_s: float = 30.0) -> None:
    end = time.monotonic() + patience_s
    while not what():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.02)


@pytest.fixture
def forks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Forks]:
    place = tmp_path / "modules"
    place.mkdir()
    (place / "loaded_before.py").write_text("import os\nby = os.getpid()\n")
    (place / "ordered.py").write_text(CHILD)
    path = os.environ.get("PYTHONPATH", "")
    monkeypatch.setenv("PYTHONPATH", f"{place}{os.pathsep}{path}")
    forks = Forks(("loaded_before", "not_installed"))
    yield forks
    forks.close()


def ordered(folder: Path, *words: str, **environment: str) -> Command:
    line = [sys.executable, "-m", "ordered", *words]
    return Command(line, folder, folder / "log", environment)


def pid_of(process: Process) -> int:
    wait_for(lambda: process.pid)  # type: ignore[attr-defined]
    return int(process.pid)  # type: ignore[attr-defined]


def is_running(pid: int) -> bool:
    return is_alive(pid) and start_of(pid) is not None


def test_a_fork_is_as_a_child_and_has_loaded_everything(
    tmp_path: Path, forks: Forks
) -> None:
    (tmp_path / "log").write_text("of an earlier one\n")
    process = forks.start(ordered(tmp_path, "tell", "$(x) 'y", SECRET="s3"))
    wait_for(lambda: process.poll() is not None)
    assert process.poll() == 75
    assert forks.is_ready()
    _, told, here = (tmp_path / "log").read_text().splitlines()
    loaded_by, parent, *rest = told.split()
    assert loaded_by == parent  # by whom it was forked
    assert rest == ["s3"]
    assert here == f"""{tmp_path} True 0o77 ["$(x) 'y"]"""
    assert process.last_words() == here
    failed = forks.start(ordered(tmp_path, "fail"))
    wait_for(lambda: failed.poll() == 1)
    assert failed.last_words() == "ValueError: a defect"


def test_many_forks_at_once_are_told_apart(tmp_path: Path, forks: Forks) -> None:
    going = [forks.start(ordered(tmp_path, "go on")) for _ in range(4)]
    over = forks.start(ordered(tmp_path, "tell"))
    wait_for(lambda: over.poll() == 75)
    assert [process.poll() for process in going] == [None] * 4
    going[2].stop()
    wait_for(lambda: going[2].poll() == -signal.SIGTERM)
    assert [process.poll() for process in going].count(None) == 3
    for process in going:
        process.kill()
    wait_for(lambda: all(process.poll() is not None for process in going))
    going[2].stop()  # of one that is gone: nothing


def test_a_fork_is_killed_with_what_it_started(tmp_path: Path, forks: Forks) -> None:
    process = forks.start(ordered(tmp_path, "deaf"))
    wait_for(process.last_words)
    grandchild = int(process.last_words())
    process.stop()
    time.sleep(0.2)
    assert process.poll() is None
    process.kill()
    wait_for(lambda: process.poll() == -signal.SIGKILL)
    wait_for(lambda: not is_running(grandchild))


def test_forks_end_with_a_lost_server_and_the_next_has_another(
    tmp_path: Path, forks: Forks
) -> None:
    first = forks.start(ordered(tmp_path, "go on"))
    pid = pid_of(first)
    stat = Path(f"/proc/{pid}/stat").read_text()
    os.kill(int(stat.rpartition(")")[2].split()[1]), signal.SIGKILL)
    wait_for(lambda: first.poll() == -signal.SIGTERM)
    assert not is_running(pid)
    second = forks.start(ordered(tmp_path, "tell"))
    wait_for(lambda: second.poll() == 75)


def test_what_is_no_module_or_comes_too_late_is_started_as_ever(
    tmp_path: Path, forks: Forks
) -> None:
    line = [sys.executable, "-c", "print('here')"]
    process = forks.start(Command(line, tmp_path, tmp_path / "log"))
    assert isinstance(process, ChildProcess)
    with pytest.raises(OSError, match="No such file"):
        forks.start(ordered(tmp_path / "absent", "tell"))
    forks.close()
    late = forks.start(ordered(tmp_path, "tell"))
    assert isinstance(late, ChildProcess)
    wait_for(lambda: late.poll() is not None)
    process.kill()


PARENT = """
import sys, time
from pathlib import Path
from evomerge.service.forking.forks import Forks
from evomerge.service.processes import Command
folder = Path(sys.argv[1])
words = [sys.executable, "-m", "ordered", "go on"]
process = Forks(()).start(Command(words, folder, folder / "log"))
while process.pid is None:
    time.sleep(0.05)
print(process.pid, flush=True)
time.sleep(60)
"""


def test_forks_end_with_the_process_that_ordered_them(
    tmp_path: Path, forks: Forks
) -> None:
    line = [sys.executable, "-c", PARENT, str(tmp_path)]
    with subprocess.Popen(line, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        child = int(parent.stdout.readline())
        assert is_running(child)
        os.kill(parent.pid, signal.SIGKILL)
        wait_for(lambda: not is_running(child))


def test_loading_reads_no_token_starts_no_thread_and_leaves_the_heavy_out() -> None:
    look = (
        "import importlib, os, sys\n"
        f"for name in {MODULES!r}: importlib.import_module(name)\n"
        "heavy = {'ray', 'torch', 'vllm', 'huggingface_hub', 'transformers'}\n"
        "print(sorted(heavy & set(sys.modules)), len(os.listdir('/proc/self/task')))"
    )
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", look], env=environment, capture_output=True, text=True
    )
    assert done.stdout == "[] 1\n", done.stderr
