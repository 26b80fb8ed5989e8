"""The walk-through: every block of it runs, in order, as a stranger would run it."""

from __future__ import annotations

import re
import shlex
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.adapters import tiny_adapter
from support.commands import Commands
from support.study_files import write_models

PAGE = Path(__file__).parents[2] / "docs" / "walkthrough.md"
BLOCK = re.compile(r"^```(python|yaml|sh)\n(.*?)^```", re.MULTILINE | re.DOTALL)
STOPPED = """
import os, signal, sqlite3, sys, threading, time

def stop():
    while True:
        time.sleep(0.02)
        try:
            rows = sqlite3.connect("file:evomerge.db?mode=ro", uri=True)
            done, = rows.execute("SELECT count(*) FROM em_trial WHERE state = 'scored'")
        except sqlite3.Error:
            continue
        if done[0] >= 5:
            os.kill(os.getpid(), signal.SIGINT)
            return

threading.Thread(target=stop, daemon=True).start()
from evomerge.cli.app import main
main(sys.argv[1:])
"""
"""A command at which somebody presses Ctrl-C when some trials are scored."""


@pytest.fixture
def stranger(tmp_path: Path) -> Path:
    """A folder with the models that the page speaks of, and an adapter."""
    zoo = tmp_path / "demo" / "zoo"
    zoo.mkdir(parents=True)
    write_models(zoo)
    tiny_adapter(tmp_path / "adapters" / "ja", zoo / "base")
    return tmp_path


@pytest.fixture(scope="module")
def commands() -> Iterator[Commands]:
    with Commands() as started:
        yield started


@pytest.mark.timeout(300)
def test_the_walk_through_runs_from_top_to_bottom(
    commands: Commands, stranger: Path
) -> None:
    text = PAGE.read_text(encoding="utf-8")
    sections = re.split(r"^## ", text, flags=re.MULTILINE)[1:]
    assert [s.split(".")[0] for s in sections] == [str(n) for n in range(1, 11)]
    told: dict[str, str] = {}
    for section in sections:
        title = section.partition("\n")[0].partition(". ")[2]
        for kind, block in BLOCK.findall(section):
            told[title] = told.get(title, "") + run(commands, stranger, kind, block)
    assert "no mistakes found" in told["A study of your own"]
    assert "evomerge resume study --in-process" in told["Stop it"]
    assert "study: trial budget used; 12 trials" in told["Go on"]
    assert "uniform" in told["Look"]
    assert "held-out items" in told["Export"]
    assert (stranger / "front.svg").is_file()
    for folder in ("best", "ties-model", "adapted-model"):
        assert (stranger / folder / "model.safetensors").is_file()
    end = told["One search after another, and the end"]
    assert "weights" in end
    assert "twice" not in end.splitlines()[-1]


def run(commands: Commands, folder: Path, kind: str, block: str) -> str:
    """Run a block, and return all that it said."""
    if kind == "yaml":
        name = re.match(r"# (\S+)\n", block)
        assert name, block
        (folder / name[1]).write_text(block, encoding="utf-8")
        return ""
    if kind == "python":
        ended = commands.python(folder, block)
        assert ended.returncode == 0, ended.stderr
        return ended.stdout
    said = ""
    for line in block.splitlines():
        program, *words = shlex.split(line, comments=True)
        assert program == "evomerge"
        is_stopped = words[0] == "run" and words[1] == "study.yaml"
        ended = (
            commands.python(folder, STOPPED, *words)
            if is_stopped
            else commands.run(folder, *words)
        )
        wanted = 128 + signal.SIGINT if is_stopped else 0
        assert ended.returncode == wanted, (line, ended.stdout, ended.stderr)
        said += ended.stdout + ended.stderr
    return said
