"""What is being done is said in steps, with what is left of them."""

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from evomerge.steps import BYTES, PERCENT, Steps, step, through, watched


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def steps(clock: Clock) -> Steps:
    return Steps(clock)


def test_a_step_without_numbers_tells_how_long_it_lasts(
    clock: Clock, steps: Steps
) -> None:
    with watched(steps), step("starting the engine") as now:
        assert now.line == "starting the engine"
        clock.now = 14.2
        assert now.line == "starting the engine, 14 s"


@pytest.mark.parametrize(
    ("done", "total", "unit", "line"),
    [
        (0, 300, "items", "scoring: 0 of 300 items"),
        (100, 300, "items", "scoring: 100 of 300 items, 0:20 left"),
        (0.5e6, 20e6, BYTES, "scoring: 0.5 of 20.0 MB, 6:30 left"),
        (2e9, 4.5e9, BYTES, "scoring: 2.0 of 4.5 GB, 0:12 left"),
        (1, 400, PERCENT, "scoring: 0%, 1:06:30 left"),
        (300, 300, "items", "scoring: 300 of 300 items, 0:00 left"),
    ],
)
def test_a_counted_step_tells_how_much_is_done_and_what_is_left(
    clock: Clock, steps: Steps, done: float, total: float, unit: str, line: str
) -> None:
    with watched(steps), step("scoring", total, unit) as now:
        clock.now = 10.0
        now.to(done)
        assert now.line == line


def test_what_another_step_took_is_no_part_of_the_estimate(
    clock: Clock, steps: Steps
) -> None:
    with watched(steps), step("scoring", 100, "items") as now:
        with step("starting the engine"):
            clock.now = 60.0
            assert steps.current is not now
        assert steps.current is now
        clock.now = 70.0
        now.advance(50)
        assert now.left_s == pytest.approx(10.0)


def test_words_stand_in_for_numbers(steps: Steps) -> None:
    with watched(steps), step("searching") as now:
        now.say("generation 3", 3)
        assert (now.line, now.mark) == ("generation 3", 3)


def test_an_error_ends_its_step(steps: Steps) -> None:
    with watched(steps), pytest.raises(ValueError, match="broken"), step("reading"):
        raise ValueError("broken")
    assert steps.current is None


def test_things_gone_through_are_counted(steps: Steps) -> None:
    with watched(steps):
        lines = [
            one.line
            for _ in through("looking", "abc", "files")
            if (one := steps.current)
        ]
    assert [line.split(",")[0] for line in lines] == [
        f"looking: {n} of 3 files" for n in range(3)
    ]
    assert steps.current is None


def test_many_threads_count_together(steps: Steps) -> None:
    with (
        watched(steps),
        step("reading", 4000, "files") as now,
        ThreadPoolExecutor(8) as pool,
    ):
        list(pool.map(lambda _: now.advance(), range(4000)))
        assert now.line.startswith("reading: 4000 of 4000 files")


def test_steps_of_a_thread_that_nobody_watches_are_not_seen(steps: Steps) -> None:
    seen = []

    def elsewhere() -> None:
        with step("something else"):
            seen.append(steps.current)

    with watched(steps):
        thread = threading.Thread(target=elsewhere)
        thread.start()
        thread.join()
    with step("afterwards"):
        seen.append(steps.current)
    assert seen == [None, None]
