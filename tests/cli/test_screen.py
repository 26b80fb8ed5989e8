"""No command is silent for long, and what it says stays out of what it prints."""

import io
import itertools
import json
import os
import pty
import re
import subprocess
import sys
from collections.abc import Iterator

import pytest

from evomerge.cli.screen import EVERY_S, FIRST_S, Line, Screen
from evomerge.steps import Steps, step, watched


class Watched:
    """A screen, its clock, and what it told with the time of it."""

    def __init__(self) -> None:
        self.now = 0.0
        self.told: list[tuple[float, str]] = []
        self.steps = Steps(lambda: self.now)
        self.screen = Screen(
            self.steps, lambda text: self.told.append((self.now, text))
        )

    def wait(self, seconds: float) -> None:
        """Let time pass, a tick four times a second."""
        for _ in range(round(4 * seconds)):
            self.now += 0.25
            self.screen.tick()


@pytest.fixture
def view() -> Iterator[Watched]:
    view = Watched()
    with watched(view.steps):
        yield view


def test_what_is_quick_is_not_told(view: Watched) -> None:
    with step("reading"):
        view.wait(0.75)
    view.wait(30)
    assert view.told == []


def test_a_long_step_is_told_soon_and_again_and_again(view: Watched) -> None:
    with step("starting the engine"):
        view.wait(15)
    assert view.told == [
        (FIRST_S, "starting the engine, 1 s"),
        (FIRST_S + EVERY_S, "starting the engine, 6 s"),
        (FIRST_S + 2 * EVERY_S, "starting the engine, 11 s"),
    ]


def test_a_second_step_is_told_when_it_lasts(view: Watched) -> None:
    with step("reading"):
        view.wait(1.5)
    with step("checking"):
        view.wait(0.5)
    with step("scoring"):
        view.wait(2)
    assert view.told == [(1.0, "reading, 1 s"), (3.0, "scoring, 1 s")]


def test_many_short_steps_are_no_long_silence(view: Watched) -> None:
    for number in range(100):
        with step(f"tensor {number}"):
            view.wait(0.5)
    times = [at for at, _ in view.told]
    assert times[0] == FIRST_S
    gaps = [b - a for a, b in itertools.pairwise(times)]
    assert max(gaps) <= EVERY_S
    assert times[-1] > 40


def test_a_new_mark_is_told_at_once(view: Watched) -> None:
    with step("searching") as now:
        view.wait(1)
        for generation in (1, 2, 2, 3):
            now.say(f"generation {generation}", generation)
            view.wait(0.25)
    assert [text for _, text in view.told[1:]] == [f"generation {n}" for n in (1, 2, 3)]


def test_on_a_terminal_the_line_is_rewritten_and_taken_away() -> None:
    main, end = pty.openpty()
    now = [0.0]
    steps = Steps(lambda: now[0])
    with os.fdopen(end, "w") as out, watched(steps):
        line = Line(steps, out)
        with step("reading"):
            now[0] = 2.0
            line.tick()
            line.write("WARNING: look\n")
            line.tick()
        line.tick()
        wanted = (
            b"\r\x1b[2Kreading, 2 s\r\x1b[2KWARNING: look\r\n"
            b"\r\x1b[2Kreading, 2 s\r\x1b[2K"
        )
        said = b""
        while len(said) < len(wanted):
            said += os.read(main, 1000)
        assert said == wanted
    os.close(main)


def test_half_a_line_of_somebody_else_is_left_alone() -> None:
    now = [0.0]
    steps, out = Steps(lambda: now[0]), io.StringIO()
    line = Line(steps, out)
    with watched(steps), step("reading"):
        now[0] = 2.0
        line.write("name? ")
        line.tick()
    assert out.getvalue() == "name? "


SLOW = """
import sys, time
from evomerge.cli import app
from evomerge.steps import step
import click

@app.app.command()
@click.option("--seconds", type=float)
def slow(seconds):
    with step("waiting"):
        time.sleep(seconds)
    click.echo('{"done": true}')

app.main(sys.argv[1:])
"""


def _slow(*words: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", SLOW, *words],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "EVOMERGE_PROGRESS": ""},
    )


def test_progress_goes_to_standard_error_and_results_to_standard_output() -> None:
    done = _slow("slow", "--seconds", "1.6")
    assert json.loads(done.stdout) == {"done": True}
    assert re.fullmatch(r"waiting, \d s\n", done.stderr)


def test_for_programs_progress_is_an_object_a_line() -> None:
    done = _slow("--log-format", "json", "slow", "--seconds", "1.6")
    (line,) = done.stderr.splitlines()
    assert json.loads(line)["message"].startswith("waiting, ")


def test_a_quick_command_says_nothing_but_its_result() -> None:
    assert _slow("slow", "--seconds", "0").stderr == ""
