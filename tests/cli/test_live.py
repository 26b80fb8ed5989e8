"""The line that a running search shows."""

import dataclasses
import sys

import pytest

from evomerge.cli.run import describe, live_view
from evomerge.cli.screen import EVERY_S, Screen
from evomerge.core.trial import Precision
from evomerge.core.work import Roster
from evomerge.search.scoreboard import Progress, Standing
from evomerge.steps import Steps, watched

PROGRESS = Progress(
    generation=3,
    done=24,
    failed=2,
    reused=1,
    running=2,
    workers=2,
    best=(
        Standing(17, None, (0.61803, 9.0), (-0.61803, 9.0)),
        Standing(9, "uniform", (0.5, 120.0), (-0.5, 120.0)),
    ),
    front_size=4,
    items_per_s=51.4,
    seconds=70.0,
    trial_s=2.5,
    left_s=3725.2,
)
NAMES = ("math", "tokens")


def test_the_line_tells_trials_best_front_pace_and_time_left() -> None:
    assert describe(PROGRESS, NAMES) == (
        "generation 3 | 24 trials | 2 failed | best math 0.618 (trial 17), best tokens "
        "120 (trial 9) | front 4 | 51 items/s | 1:02:05 left"
    )


def test_what_is_not_known_yet_is_left_out() -> None:
    early = dataclasses.replace(
        PROGRESS, done=0, failed=0, best=(None, None), front_size=0, left_s=None
    )
    assert describe(early, NAMES) == "generation 3 | 0 trials | front 0 | 51 items/s"


def test_a_short_time_left_is_minutes_and_seconds() -> None:
    soon = dataclasses.replace(PROGRESS, left_s=61.6)
    assert describe(soon, NAMES).endswith("1:02 left")


def test_while_workers_come_up_nothing_else_is_told() -> None:
    waiting = dataclasses.replace(PROGRESS, workers=0, seconds=12.3)
    assert describe(waiting, NAMES) == "waiting for workers (12 s)"


@pytest.mark.parametrize(
    ("n_up", "roster", "words"),
    [
        (0, Roster(4, 0), "waiting for workers (70 s)"),
        (0, Roster(4, 0, "a GPU"), "0 of 4 workers, waiting for a GPU (70 s)"),
        (3, Roster(4, 3, "a GPU"), "| 3 of 4 workers, waiting for a GPU |"),
        (3, Roster(4, 3), "| 3 of 4 workers |"),
        (1, Roster(1, 1, None, 2), "| 2 nodes set aside |"),
        (0, Roster(1, 0, "a core", 1), "waiting for a core, 1 node set aside (70 s)"),
    ],
)
def test_workers_that_are_missing_are_told_with_what_they_wait_for(
    n_up: int, roster: Roster, words: str
) -> None:
    said = describe(dataclasses.replace(PROGRESS, workers=n_up, roster=roster), NAMES)
    assert words in said


def test_of_workers_that_are_all_there_nothing_is_said() -> None:
    there = dataclasses.replace(PROGRESS, roster=Roster(2, 2))
    assert describe(there, NAMES) == describe(PROGRESS, NAMES)


def test_without_a_terminal_each_generation_is_told_at_once() -> None:
    now, told = [0.0], list[str]()
    steps = Steps(clock=lambda: now[0])
    screen = Screen(steps, told.append)
    with watched(steps), live_view("mine", NAMES) as show:
        for generation, seconds in ((1, 2), (1, 1), (2, 1), (2, EVERY_S), (2, 1)):
            now[0] += seconds
            show(dataclasses.replace(PROGRESS, generation=generation))
            screen.tick()
    assert [line.split(" | ")[0] for line in told] == [
        "generation 1",
        "generation 2",
        "generation 2",
    ]


def test_in_a_terminal_the_last_line_stays(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    with live_view("mine", NAMES) as show:
        show(PROGRESS)
    assert "best math 0.618 (trial 17)" in capsys.readouterr().err


def test_a_score_has_its_error_and_says_what_it_is_over_and_that_it_is_selected() -> (
    None
):
    whole, some = (Precision({}, n, 384) for n in (384, 38))
    line = describe(
        dataclasses.replace(
            PROGRESS,
            best=(
                Standing(3, "uniform", (0.5,), (-0.5,), (0.041,), whole),
                None,
            ),
            leader=Standing(17, None, (0.61803,), (-0.6,), (0.0812,), some, True),
            n_finals=2,
        ),
        NAMES,
    )
    assert "best math 0.5 ± 0.041 (trial 3)" in line
    leads = "leads in math 0.618 ± 0.081 on 38 of 384 items, selected on (trial 17)"
    assert f"| {leads} | 2 finals |" in line
