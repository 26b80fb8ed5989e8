"""Two runs of one study that begin at one instant: one searches, the other is told."""

import contextlib
import io
import json
import os
from pathlib import Path

import pytest
from support.databases import MakeUrl
from support.study_files import simulated_study, write_models, write_study

from evomerge import api
from evomerge.cli.app import main

N_TIMES = 4


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_models(tmp_path_factory.mktemp("models"))


def started(gate: tuple[int, int], words: list[str]) -> tuple[int, int]:
    """Start a command in a process that waits for the gate; return it and its pipe."""
    reader, writer = os.pipe()
    if (pid := os.fork()) == 0:
        with contextlib.suppress(BaseException):
            err = io.StringIO()
            os.close(gate[1])
            os.read(gate[0], 1)  # until nobody holds the other end
            with (
                contextlib.redirect_stdout(io.StringIO()),
                contextlib.redirect_stderr(err),
                pytest.raises(SystemExit) as ended,
            ):
                main(words)
            os.write(writer, json.dumps([ended.value.code, err.getvalue()]).encode())
        os._exit(0)
    os.close(writer)
    return pid, reader


def both(words: list[str]) -> list[tuple[int, int, str]]:
    """Start a command twice at one instant; return process, exit code, what it said."""
    gate = os.pipe()
    processes = [started(gate, words) for _ in range(2)]
    os.close(gate[1])
    found = []
    for pid, reader in processes:
        with os.fdopen(reader) as pipe:
            code, err = json.loads(pipe.read())
        os.waitpid(pid, 0)
        found.append((pid, code, err))
    os.close(gate[0])
    return found


def test_of_two_runs_at_one_instant_one_searches_and_the_other_is_told(
    tmp_path: Path, models: Path, new_url: MakeUrl, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    # Long enough that the first is at it when the second has read the file.
    options = {"items": 20, "sleep_s": 0.04}
    tasks = {"one": {"task": "simulated", "metric": "acc", "options": options}}
    data = simulated_study(models, tasks=tasks, budget={"trials": 3})
    file = write_study(tmp_path / "mine.yaml", data)
    where = api.Where(None, None, True, tmp_path / "evomerge")
    api.search(api.prepare(file, db=f"sqlite:///{tmp_path}/warm.db", where=where))
    n_told = 0
    for _ in range(N_TIMES):
        url = new_url()
        found = both(["run", str(file), "--in-process", "--db", url])
        codes = sorted(code for _, code, _ in found)
        assert codes in ([0, 75], [0, 0]), found  # who is late finds it finished
        for _, code, err in found:
            if code == 75:
                n_told += 1
                (runs,) = [pid for pid, code, _ in found if code == 0]
                assert f"'mine' is being run by process {runs} on " in err
        assert api.status("mine", db=url).counts["scored"] == 7
        assert not api.audit(db=url).faults
    assert n_told > N_TIMES / 2
