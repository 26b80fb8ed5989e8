"""What the end of a process means for its job, by exit code."""

from dataclasses import replace

import pytest

from evomerge.store.queue.ending import ProcessEnd, after
from evomerge.store.queue.values import Job, JobState, Wanted

S = JobState
JOB = Job(
    id=1,
    user="ann",
    name="a",
    study="a",
    bundle_digest="0",
    state=S.RUNNING,
    wanted=Wanted.RUN,
    priority=0,
    budget={},
    place={},
    claim_by="one",
    due=None,
    starts=1,
    fruitless=0,
    last_progress=10,
    why=None,
    created="",
    changed="",
)
FINISHED, FAILED, WAITING = S.FINISHED, S.FAILED, S.WAITING
PAUSED, CANCELLED, QUEUED = S.PAUSED, S.CANCELLED, S.QUEUED


@pytest.mark.parametrize(
    ("code", "run", "asked", "pause", "cancel"),
    [
        (0, FINISHED, FINISHED, FINISHED, FINISHED),
        (2, FAILED, FAILED, FAILED, CANCELLED),
        (3, FAILED, FAILED, FAILED, CANCELLED),
        *(
            (code, WAITING, QUEUED, PAUSED, CANCELLED)
            for code in (1, 4, 75, 76, 77, 130, 134, 143, 255, -6, -9, -15, -64, -99)
        ),
    ],
)
def test_an_exit_code_says_what_becomes_of_a_job(
    code: int, run: S, asked: S, pause: S, cancel: S
) -> None:
    end = ProcessEnd(code, "said")
    assert after(JOB, end, 10).state is run
    assert after(JOB, replace(end, asked=True), 10).state is asked
    for wanted, state in ((Wanted.PAUSE, pause), (Wanted.CANCEL, cancel)):
        wished = replace(JOB, wanted=wanted)
        assert after(wished, replace(end, asked=True), 10).state is state
        assert after(wished, end, 10).state is state


def test_pauses_double_up_to_a_minute_and_progress_ends_them() -> None:
    end = ProcessEnd(75)
    pauses = [after(replace(JOB, fruitless=n), end, 10).pause_s for n in range(14)]
    assert pauses == [2, 4, 8, 16, 32, *[60] * 9]
    then = after(replace(JOB, fruitless=4), end, 11)
    assert (then.state, then.pause_s, then.fruitless) == (S.WAITING, 2, 0)


def test_what_was_in_the_way_is_waited_for_ten_minutes_and_a_crash_is_not() -> None:
    for code, most in ((75, 15), (1, 5), (-9, 5), (76, 5)):
        end = ProcessEnd(code)
        assert after(replace(JOB, fruitless=most - 2), end, 10).state is S.WAITING
        assert after(replace(JOB, fruitless=most - 1), end, 10).state is S.FAILED


def test_the_cause_is_told_in_words() -> None:
    assert ProcessEnd(-9, "x").cause == "its process was ended by SIGKILL"
    assert ProcessEnd(-99).cause == "its process was ended by signal 99"
    assert ProcessEnd(77).cause == "its process ended with code 77"
    assert (
        ProcessEnd(75, "Ray is away").cause == "something was in the way: Ray is away"
    )
