"""Lines of logs: for people as they were, for programs as JSON, secrets in neither."""

from __future__ import annotations

import json
import logging
import os
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from support.searched import EVENTFUL, search_small
from support.study_files import simulated_study, write_models, write_study

from evomerge import logs
from evomerge.service.processes import ChildProcess, Command

SECRET = "postgresql://me:s3cr3t-word@db/x"


@pytest.fixture
def logger() -> Any:
    logger = logging.getLogger("evomerge")
    before = logger.handlers[:], logger.level, logger.propagate
    yield logger
    logger.handlers[:], logger.level, logger.propagate = before


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


@pytest.fixture
def as_json(logger: logging.Logger, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(logs.FORMAT_VARIABLE, "json")


def test_a_line_is_plain_unless_asked_for(
    logger: logging.Logger, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    with logs.about(study="demo"):
        logging.getLogger("evomerge.x").warning("it broke", extra={"trial": 3})
    assert capsys.readouterr().err == "WARNING evomerge.x: it broke\n"


def test_a_line_is_one_object_with_what_it_is_about(
    as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    log = logging.getLogger("evomerge.x")
    with logs.about(study="demo", trial=1):
        log.warning("two\nlines", extra={"trial": 3, "attempt": 2, "other": 5})
    log.warning("none")
    first, second = lines_of(capsys.readouterr().err)
    assert first.pop("at").endswith("+00:00")
    assert first == {
        "level": "warning",
        "logger": "evomerge.x",
        "message": "two\nlines",
        "study": "demo",
        "trial": 3,
        "attempt": 2,
    }
    assert second.keys() == {"at", "level", "logger", "message"}


def test_secrets_are_hidden_wherever_they_stand(
    as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    log = logging.getLogger("evomerge.x")
    try:
        raise ValueError(f'cannot reach "{SECRET}"')
    except ValueError as error:
        log.warning("no %s", SECRET, exc_info=error, extra={"worker": SECRET})
    text = capsys.readouterr().err
    assert "s3cr3t-word" not in text
    (line,) = lines_of(text)
    assert "ValueError" in line["traceback"]
    assert line["message"] == "no postgresql://me:***@db/x"


def test_another_thread_is_about_its_own_things(
    as_json: None, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()

    def other() -> None:
        with logs.about(study="two"):
            logging.getLogger("evomerge.x").warning("there")

    with logs.about(study="one"):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        logging.getLogger("evomerge.x").warning("here")
    told = [
        (line["message"], line["study"]) for line in lines_of(capsys.readouterr().err)
    ]
    assert told == [("there", "two"), ("here", "one")]


def test_faults_of_a_search_say_study_trial_attempt_and_worker(
    as_json: None, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.set_up()
    search_small(f"sqlite:///{tmp_path}/x.db", tmp_path, EVENTFUL)
    lines = lines_of(capsys.readouterr().err)
    assert lines
    for line in lines:
        assert line["study"] == "small"
        assert isinstance(line["trial"], int)
        assert line["attempt"] >= 1
        assert line["cause"] in ("engine", "non_finite")
    assert {line.get("worker") for line in lines} == {None, "local"}


def test_a_search_tells_its_progress_as_json(tmp_path: Path) -> None:
    models = write_models(tmp_path / "models")
    study = write_study(tmp_path / "study.yaml", simulated_study(models))
    words = ["--log-format", "json", "run", str(study), "--in-process"]
    command = [sys.executable, "-m", "evomerge", *words]
    env = {**os.environ, "EVOMERGE_DB": f"sqlite:///{tmp_path}/x.db"}
    env |= {"EVOMERGE_PROGRESS": ""}
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    lines = lines_of(done.stderr)
    assert any("generation" in line["message"] for line in lines)


def test_the_error_of_a_command_is_json(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "evomerge", "status", "absent"]
    env = {**os.environ, "EVOMERGE_LOG": "json"}
    env["EVOMERGE_DB"] = f"sqlite:///{tmp_path}/absent.db"
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    (line,) = lines_of(done.stderr)
    assert line["level"] == "error"
    assert "absent.db" in line["message"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (
            '{"level": "error", "message": "It broke."}\n'
            '{"level": "info", "message": "x"}',
            "It broke.",
        ),
        ('{"level": "info", "message": "so far"}', "so far"),
        ('{"level": 1', '{"level": 1'),
        ("Error: plain\nmore", "plain\nmore"),
        ("", ""),
    ],
)
def test_a_supervisor_understands_the_last_words_of_either_kind(
    text: str, words: str, tmp_path: Path
) -> None:
    (tmp_path / "said").write_text(text)
    script = "import sys; sys.stderr.write(open('said').read())"
    log = tmp_path / "log"
    process = ChildProcess(Command([sys.executable, "-c", script], tmp_path, log))
    while process.poll() is None:
        pass
    assert process.last_words() == words
