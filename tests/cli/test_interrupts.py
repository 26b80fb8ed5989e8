"""Stopping a search by Ctrl-C, SIGTERM and SIGKILL, in a process of its own."""

import json
import os
import re
import signal
import sqlite3
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.commands import Commands
from support.study_files import simulated_study, write_study

pytestmark = pytest.mark.slow

MAIN = "from evomerge.cli.app import main; main()"


def start(folder: Path, *words: str, seed: int = 2) -> subprocess.Popen[str]:
    """Begin a command in a process of its own, which hashes otherwise than others."""
    environment = os.environ | {
        "XDG_CACHE_HOME": str(folder / "cache"),
        "PYTHONHASHSEED": str(seed),
    }
    return subprocess.Popen(
        [sys.executable, "-c", MAIN, *words],
        cwd=folder,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.fixture(scope="module")
def finish() -> Iterator[Callable[..., str]]:
    """Runs commands to their end."""
    with Commands(with_models=False) as commands:
        yield commands.call


def scored(folder: Path) -> int:
    """Number of trials in the database that have scores."""
    file = folder / "evomerge.db"
    if not file.exists():
        return 0
    connection = sqlite3.connect(f"file:{file}?mode=ro", uri=True)
    try:
        sql = "SELECT count(*) FROM em_trial WHERE state = 'scored'"
        return int(connection.execute(sql).fetchone()[0])
    except sqlite3.OperationalError:  # the tables are being made
        return 0
    finally:
        connection.close()


def lease(folder: Path) -> tuple[float | None, int | None]:
    """Until when the study is held, and by which process."""
    connection = sqlite3.connect(f"file:{folder}/evomerge.db?mode=ro", uri=True)
    try:
        sql = "SELECT lease_until, lease_pid FROM em_study"
        until, pid = connection.execute(sql).fetchone()
        return until, pid
    finally:
        connection.close()


def wait_until_scored(process: subprocess.Popen[str], folder: Path, n: int) -> None:
    deadline = time.monotonic() + 200
    while scored(folder) < n:
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


@pytest.fixture
def decided(finish) -> Callable[[Path], list[dict[str, Any]]]:
    """Tells what of the trials must not depend on what happened on the way."""
    kept = ("number", "generation", "state", "recipe", "point", "scores", "values")

    def decided(folder: Path) -> list[dict[str, Any]]:
        rows = json.loads(finish(folder, "trials", "mine", "--json"))
        return [{key: row[key] for key in kept} for row in rows]

    return decided


@pytest.fixture
def file(models: Path) -> Any:
    def file(folder: Path, strategy: str, block_s: float = 0.1) -> None:
        folder.mkdir()
        options = {"items": 20, "sleep_s": block_s}
        tasks = {
            name: {"task": "simulated", "metric": "acc", "options": options}
            for name in ("one", "two")
        }
        study = simulated_study(
            models,
            name="mine",
            tasks=tasks,
            strategy={"kind": strategy, "generation_size": 4},
            budget={"trials": 10},
        )
        write_study(folder / "study.yaml", study)

    return file


@pytest.mark.parametrize(
    ("sign", "code", "strategy"),
    [
        (signal.SIGINT, 130, "cma"),
        pytest.param(signal.SIGTERM, 143, "random", marks=pytest.mark.long),
    ],
)
def test_a_signal_stops_soon_says_how_to_resume_and_loses_nothing(
    file,
    finish,
    decided,
    tmp_path: Path,
    sign: signal.Signals,
    code: int,
    strategy: str,
) -> None:
    calm, stopped = tmp_path / "calm", tmp_path / "stopped"
    for folder in (calm, stopped):
        file(folder, strategy)
    process = start(stopped, "run", "study.yaml", "--in-process")
    wait_until_scored(process, stopped, 6)
    process.send_signal(sign)
    began = time.monotonic()
    _, err = process.communicate(timeout=100)
    assert time.monotonic() - began < 10
    assert process.returncode == code
    assert "Traceback" not in err
    assert err.rstrip().endswith("Stopped.")
    assert lease(stopped) == (None, None)
    hint = re.search(r"^  evomerge (resume mine.*)$", err, re.MULTILINE)
    assert hint, err
    before = decided(stopped)
    assert {row["state"] for row in before} == {"scored", "pending"}
    finish(stopped, *hint.group(1).split())
    finish(calm, "run", "study.yaml", "--in-process")
    after = decided(stopped)
    assert after == decided(calm)
    assert len(after) == 14
    assert [row for row in before if row["state"] == "scored"] == [
        row for row, was in zip(after, before, strict=False) if was["state"] == "scored"
    ]


def test_a_second_signal_ends_at_once(file, finish, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    file(folder, "random")
    process = start(folder, "run", "study.yaml", "--in-process")
    wait_until_scored(process, folder, 1)
    held = hold_database(folder)  # giving the lease back has to wait for it
    process.send_signal(signal.SIGTERM)
    time.sleep(1.0)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=5) == -signal.SIGTERM
    held.close()
    finish(folder, "resume", "mine", "--in-process")


def hold_database(folder: Path) -> sqlite3.Connection:
    """Keep everybody else from writing."""
    connection = sqlite3.connect(folder / "evomerge.db", isolation_level=None)
    connection.execute("BEGIN IMMEDIATE")
    return connection


@pytest.mark.ray
@pytest.mark.timeout(180)
def test_sigterm_ends_the_workers_on_ray_too(file, tmp_path: Path) -> None:
    folder = tmp_path / "one"
    file(folder, "random")
    process = start(folder, "run", "study.yaml", "--workers", "1")
    wait_until_scored(process, folder, 2)
    (facts,) = events(folder, "worker")
    worker = Path(f"/proc/{facts['pid']}")
    assert worker.exists()
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 143, err
    assert "evomerge resume mine" in err
    assert lease(folder) == (None, None)
    end = time.monotonic() + 10
    while worker.exists():
        assert time.monotonic() < end
        time.sleep(0.1)


def events(folder: Path, kind: str) -> list[dict[str, Any]]:
    """What was remembered of a kind."""
    connection = sqlite3.connect(f"file:{folder}/evomerge.db?mode=ro", uri=True)
    try:
        sql = "SELECT data FROM em_event WHERE kind = ?"
        return [json.loads(data) for (data,) in connection.execute(sql, (kind,))]
    finally:
        connection.close()


def test_a_killed_search_is_resumed_at_once_and_equals_an_undisturbed_one(
    file, finish, decided, tmp_path: Path
) -> None:
    calm, killed = tmp_path / "calm", tmp_path / "killed"
    for folder in (calm, killed):
        file(folder, "cma")
    for n in (2, 7, 11):
        words = ("resume", "mine") if scored(killed) else ("run", "study.yaml")
        process = start(killed, *words, "--in-process", seed=n)
        wait_until_scored(process, killed, n)
        process.kill()
        process.communicate(timeout=100)
    status = json.loads(finish(killed, "status", "mine", "--json"))
    assert status["state"] == "stopped"
    finish(killed, "resume", "mine", "--in-process")
    finish(calm, "run", "study.yaml", "--in-process")
    assert decided(killed) == decided(calm)


def test_a_second_search_of_one_study_is_refused_while_the_first_lives(
    file, tmp_path: Path
) -> None:
    folder = tmp_path / "one"
    file(folder, "random", block_s=3.0)
    first = start(folder, "run", "study.yaml", "--in-process")
    wait_until_scored(first, folder, 1)
    second = start(folder, "resume", "mine", "--in-process")
    _, err = second.communicate(timeout=100)
    assert second.returncode == 75
    assert f"process {first.pid}" in err
    assert first.poll() is None
    first.kill()
    first.communicate(timeout=100)
