"""`status --follow` tells how a study goes, and ends when its search does."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from support.study_files import simulated_study, write_study

from evomerge.cli.verbs import standing
from evomerge.cli.verbs.standing import Look, Pace, described, local_look

ROW = {
    "name": "mine",
    "state": "searching: process 1 on here",
    "counts": dict.fromkeys(("pending", "running", "scored", "failed"), 0)
    | {"quarantined": 0},
    "trials": 0,
    "allowed": 40,
    "seconds": 0.0,
    "best": [],
    "workers": "2 up",
}


def row(
    asked: int, scored: int, running: int = 0, **changes: object
) -> dict[str, object]:
    counts = {**ROW["counts"], "scored": scored, "running": running}  # type: ignore[dict-item]
    return {**ROW, "trials": asked, "counts": counts, **changes}


def test_speed_and_time_left_follow_from_the_ends_that_were_seen() -> None:
    now = [0.0]
    pace = Pace(lambda: now[0])
    assert pace.of(row(0, 4)) == {
        "done": 0,
        "allowed": 40,
        "trials_per_hour": None,
        "left_s": None,
    }
    now[0] = 100.0
    pace.of(row(8, 8, running=4))
    now[0] = 200.0
    at = pace.of(row(12, 12, running=4))
    assert at["done"] == 8
    assert at["trials_per_hour"] == pytest.approx(3600 * 8 / 200)
    assert at["left_s"] == pytest.approx((28 + 4) * 200 / 8)
    now[0] = 210.0
    assert pace.of(row(12, 12, running=4))["left_s"] == pytest.approx(790.0)


def test_before_an_end_is_seen_the_whole_run_tells_the_speed() -> None:
    at = Pace(lambda: 0.0).of(row(20, 24, seconds=100.0))
    assert at["trials_per_hour"] == pytest.approx(720.0)
    assert at["left_s"] == pytest.approx(100.0)


def test_without_a_limit_nothing_is_known_to_be_left() -> None:
    at = Pace(lambda: 0.0).of(row(20, 24, seconds=100.0, allowed=None))
    assert (at["allowed"], at["left_s"]) == (None, None)


def test_stages_are_added_up() -> None:
    stages = [
        {"name": "a", "state": "trial budget used", "trials": 10, "allowed": 10},
        {"name": "b", "state": "searching: process 1", "trials": 4, "allowed": 20},
        {"name": "c", "state": "waiting", "trials": 0, "allowed": 5},
    ]
    rows = [{**stage, "best": []} for stage in stages]
    at = Pace(lambda: 0.0).of(rows)
    assert (at["done"], at["allowed"]) == (14, 35)
    assert described("s", local_look(rows), at) == "b | 14 of 35 trials"


@pytest.mark.parametrize(
    ("states", "is_over", "is_away"),
    [
        (["searching: process 1 on here"], False, False),
        (["trial budget used"], True, False),
        (["stopped"], False, True),
        (["trial budget used", "searching: process 1 on here"], False, False),
        (["trial budget used", "waiting"], False, True),
        (["trial budget used", "time budget used"], True, False),
    ],
)
def test_it_is_over_when_nobody_will_go_on(
    states: list[str], is_over: bool, is_away: bool
) -> None:
    look = local_look([{"state": state} for state in states])
    assert (look.is_over, look.is_away) == (is_over, is_away)


def test_the_line_says_speed_workers_failures_and_time_left() -> None:
    best = [{"objective": "score", "value": 0.61803, "trial": 17}]
    found = row(12, 15, best=best)
    found["counts"] = {**found["counts"], "failed": 1}  # type: ignore[dict-item]
    at = {"done": 12, "allowed": 40, "trials_per_hour": 144.2, "left_s": 700.0}
    assert described("mine", Look(found, "searching", False), at) == (
        "mine | 12 of 40 trials | 1 failed | best score 0.618 (trial 17) | "
        "144 trials/h | workers: 2 up | 11:40 left"
    )


def _evomerge(here: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-m", "evomerge", *words],
        cwd=here,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_search_is_followed_to_its_end(
    call, here: Path, models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = {"items": 20, "sleep_s": 0.2}
    tasks = {"one": {"task": "simulated", "metric": "acc", "options": options}}
    study = simulated_study(models, tasks=tasks, budget={"trials": 9})
    write_study(here / "mine.yaml", study)
    running = _evomerge(here, "run", "mine.yaml", "--in-process")
    while call("status", "mine").code != 0:
        assert running.poll() is None, running.communicate()
        time.sleep(0.2)
    left = _evomerge(here, "status", "mine", "--follow")
    by_json = _evomerge(here, "status", "mine", "--follow", "--json")
    monkeypatch.setattr(standing, "PATIENCE_S", 0.5)
    assert left.stderr is not None
    assert left.stderr.readline().startswith("mine | ")
    left.send_signal(signal.SIGINT)
    assert left.wait(20) == 130
    assert "Traceback" not in left.communicate()[1]
    ended = call("status", "mine", "--follow")
    assert ended.code == 0
    assert "trials/h" in ended.err
    assert " left" in ended.err
    assert "trial budget used" in ended.out
    assert running.wait(20) == 0
    running.communicate()
    out, err = by_json.communicate(timeout=40)
    assert (by_json.returncode, err) == (0, "")
    told = [json.loads(line) for line in out.splitlines()]
    done = [one["done"] for one in told]
    assert done == sorted(done)
    assert (done[-1], told[-1]["left_s"]) == (9, 0.0)
    assert told[-1]["state"] == "trial budget used"
    again = call("status", "mine", "--follow")
    assert (again.code, again.out) == (0, call("status", "mine").out)


def test_a_study_that_nobody_searches_is_shown_at_once(call, done: Path) -> None:
    began = time.monotonic()
    ended = call("status", "mine", "--follow", "--json")
    assert ended.code == 0
    (line,) = ended.out.splitlines()
    assert json.loads(line)["done"] == 6
    assert time.monotonic() - began < standing.PATIENCE_S
