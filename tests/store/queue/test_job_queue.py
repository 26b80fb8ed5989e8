"""The queue: what owners and supervisors say, and in which order jobs are claimed."""

import pytest
from support.jobs import bundle, due_now, run_out, submission
from support.searched import ask, by_hand

from evomerge.errors import (
    ClaimLostError,
    JobExistsError,
    JobNotFoundError,
    JobStateError,
    SpecError,
    UserError,
)
from evomerge.store.databases.database import Database
from evomerge.store.queue.accounts import Accounts
from evomerge.store.queue.claims import CLAIM_S
from evomerge.store.queue.ending import MAX_FRUITLESS, ProcessEnd
from evomerge.store.queue.exports import Exports
from evomerge.store.queue.job_queue import JobQueue
from evomerge.store.queue.values import Claim, JobState, Scope, Wanted
from evomerge.store.sql import open_store

S = JobState


def claimed(queue: JobQueue, by: str = "one") -> Claim:
    claim = queue.claim(by)
    assert claim is not None
    return claim


def running(queue: JobQueue, name: str = "a") -> Claim:
    queue.submit("ann", submission(name))
    claim = claimed(queue)
    assert queue.started(claim) is S.RUNNING
    return claim


def faults(url: str) -> list[str]:
    store = open_store(url)
    found = [f"{fault.where}: {fault.what}" for fault in store.check()]
    store.close()
    return found


def test_the_same_submitted_again_is_the_same_job(queue: JobQueue) -> None:
    job, is_new = queue.submit("ann", submission("a", place={"workers": 2}))
    assert is_new
    assert (job.address, job.state, job.wanted) == ("ann/a", S.QUEUED, Wanted.RUN)
    assert queue.submit("ann", submission("a", place={"workers": 2})) == (job, False)
    assert queue.bundle(job) == submission("a").bundle
    assert [event.kind for event in queue.events("ann", "a")] == ["submitted"]


def test_another_under_the_name_is_refused_with_the_differences(
    queue: JobQueue,
) -> None:
    queue.submit("ann", submission("a"))
    other = submission("a", bundle=bundle("name: b\n"), priority=1)
    with pytest.raises(JobExistsError, match="A job named 'a' is there") as error:
        queue.submit("ann", other)
    assert list(map(str, error.value.problems)) == [
        "study.yaml: line 1 is 'name: a' there, 'name: b' here",
        "priority: is 0 there, 1 here",
    ]
    # Names are a user's own, studies are the database's.
    with pytest.raises(JobExistsError, match="Study 'a' belongs to another job"):
        queue.submit("bob", submission("a"))
    assert queue.submit("bob", submission("a", study="b"))[1]
    with pytest.raises(UserError, match="no user 'eve'"):
        queue.submit("eve", submission("a", study="c"))


@pytest.mark.parametrize("recorded", ["a", "a.ps"])
def test_a_study_that_no_job_recorded_is_not_taken_over(
    queue: JobQueue, any_url: str, recorded: str
) -> None:
    store = open_store(any_url)
    store.create_study(recorded, {"secret": "s3"}, {}, 1)
    store.close()
    with pytest.raises(JobExistsError, match="'a' is in this database") as error:
        queue.submit("ann", submission("a"))
    assert "s3" not in str(error.value)
    assert queue.submit("ann", submission("b"))[1]


def test_a_submission_is_looked_at_whole() -> None:
    with pytest.raises(SpecError) as error:
        submission("../a", study="", priority=11, place={"workers": 0, "gpus": 1})
    assert [problem.where for problem in error.value.problems] == [
        *("name", "study", "priority", "place.workers", "place.gpus")
    ]


def test_jobs_are_listed_by_user_and_state_a_page_at_a_time(queue: JobQueue) -> None:
    for i in range(5):
        queue.submit("ann" if i % 2 else "bob", submission(f"j{i}"))
    assert [job.name for job in queue.jobs()] == [f"j{i}" for i in range(5)]
    assert [job.name for job in queue.jobs("ann")] == ["j1", "j3"]
    page = queue.jobs(limit=2)
    assert [job.name for job in page] == ["j0", "j1"]
    rest = queue.jobs(after=("ann", "j1"))
    assert [job.name for job in rest] == ["j2", "j3", "j4"]
    queue.want("ann", "j1", Wanted.CANCEL)
    assert [job.name for job in queue.jobs(states=[S.CANCELLED])] == ["j1"]
    assert len(queue.jobs(states=[S.QUEUED, S.CANCELLED])) == 5
    for call in (
        lambda: queue.get("ann", "j0"),
        lambda: queue.events("ann", "j0"),
        lambda: queue.want("ann", "j0", Wanted.CANCEL),
        lambda: queue.resume("ann", "j0"),
        lambda: queue.record("ann", "j0", "x", {}),
        lambda: queue.jobs(after=("ann", "j0")),
    ):
        with pytest.raises(JobNotFoundError, match="ann has no job named 'j0'"):
            call()


@pytest.mark.parametrize("wanted", [Wanted.PAUSE, Wanted.CANCEL])
def test_what_nobody_runs_is_paused_or_cancelled_at_once(
    queue: JobQueue, any_url: str, wanted: Wanted
) -> None:
    queue.submit("ann", submission("a"))
    done = S.PAUSED if wanted is Wanted.PAUSE else S.CANCELLED
    assert queue.want("ann", "a", wanted).state is done
    events = queue.events("ann", "a")
    assert queue.want("ann", "a", wanted).state is done
    assert queue.events("ann", "a") == events  # twice is once
    assert queue.claim("one") is None
    assert queue.resume("ann", "a").state is S.QUEUED
    claim = claimed(queue)
    queue.ended(claim, ProcessEnd(75))
    assert queue.get("ann", "a").state is S.WAITING
    assert queue.want("ann", "a", wanted).state is done
    assert queue.get("ann", "a").due is None
    assert faults(any_url) == []


@pytest.mark.parametrize(("wanted", "code"), [(Wanted.PAUSE, 143), (Wanted.CANCEL, -9)])
def test_what_runs_is_stopped_first(
    queue: JobQueue, any_url: str, wanted: Wanted, code: int
) -> None:
    claim = running(queue)
    on_its_way = S.PAUSING if wanted is Wanted.PAUSE else S.CANCELLING
    assert queue.want("ann", "a", wanted).state is on_its_way
    assert queue.beat(claim) is on_its_way
    assert faults(any_url) == []
    done = S.PAUSED if wanted is Wanted.PAUSE else S.CANCELLED
    assert queue.ended(claim, ProcessEnd(code, asked=True)).state is done
    assert faults(any_url) == []


def test_a_pause_that_is_taken_back_queues_the_job_again(
    queue: JobQueue, any_url: str
) -> None:
    claim = running(queue)
    queue.want("ann", "a", Wanted.PAUSE)
    assert queue.resume("ann", "a").state is S.PAUSING
    assert faults(any_url) == []
    assert queue.ended(claim, ProcessEnd(143, asked=True)).state is S.QUEUED


@pytest.mark.parametrize("wanted", Wanted)
def test_nothing_can_be_wanted_of_a_job_that_finished(
    queue: JobQueue, wanted: Wanted
) -> None:
    queue.ended(running(queue), ProcessEnd(0))
    with pytest.raises(
        JobStateError, match=r"Job 'a' is finished; it cannot be (re|pa|ca)"
    ):
        queue.want("ann", "a", wanted)
    assert queue.get("ann", "a").state is S.FINISHED


def test_a_cancel_under_way_cannot_be_taken_back(queue: JobQueue) -> None:
    running(queue)
    queue.want("ann", "a", Wanted.CANCEL)
    for wanted in (Wanted.RUN, Wanted.PAUSE):
        with pytest.raises(JobStateError, match="is cancelling; it cannot be"):
            queue.want("ann", "a", wanted)


def test_a_finished_job_goes_on_with_more_budget_only(queue: JobQueue) -> None:
    queue.ended(running(queue), ProcessEnd(0))
    with pytest.raises(JobStateError, match="Give it a larger budget"):
        queue.resume("ann", "a")
    job = queue.resume("ann", "a", budget={"trials": 40}, priority=3)
    assert (job.state, job.budget, job.priority) == (S.QUEUED, {"trials": 40}, 3)
    queue.ended(claimed(queue), ProcessEnd(0))
    with pytest.raises(JobStateError, match="Give it a larger budget"):
        queue.resume("ann", "a", budget={"trials": 40})
    with pytest.raises(SpecError, match="expected at least the 40 that it has, got 39"):
        queue.resume("ann", "a", budget={"trials": 39})
    job = queue.resume("ann", "a", budget={"minutes": 0.5})
    assert job.budget == {"trials": 40, "minutes": 0.5}
    for bad in (
        {"gpus": 1},
        {"trials": 1.5},
        {"items": 0},
        {"minutes": float("nan")},
        {"trials": True},
        {"items": "9"},
        {"minutes": float("inf")},
    ):
        with pytest.raises(SpecError, match=r"budget\."):
            queue.resume("ann", "a", budget=bad)


@pytest.mark.parametrize("code", [2, 3])
def test_what_cannot_run_has_failed_with_its_cause(queue: JobQueue, code: int) -> None:
    job = queue.ended(running(queue), ProcessEnd(code, "Error: no such operator"))
    assert job.state is S.FAILED
    assert job.why is not None
    assert job.why.endswith("Error: no such operator")
    assert queue.claim("one") is None
    again = queue.resume("ann", "a")
    assert (again.state, again.why, again.fruitless) == (S.QUEUED, None, 0)


@pytest.mark.parametrize("code", [1, -9])
def test_restarts_that_come_to_nothing_fail_with_the_last_cause(
    queue: JobQueue, any_url: str, code: int
) -> None:
    queue.submit("ann", submission("a"))
    pauses = []
    for start in range(1, MAX_FRUITLESS + 1):
        claim = claimed(queue)
        assert claim.job.starts == start
        queue.started(claim)
        job = queue.ended(claim, ProcessEnd(code, f"cause {start}"))
        if job.state is S.WAITING:
            assert queue.claim("one") is None  # not before its time
            due = "SELECT not_before - changed FROM em_job"
            pauses.append(round(ask(any_url, due)))
            due_now(any_url)
    assert pauses == [2, 4, 8, 16]
    assert job.state is S.FAILED
    assert job.why is not None
    assert "5 starts in a row came to nothing" in job.why
    assert f"cause {start}" in job.why or "was ended by SIG" in job.why
    assert faults(any_url) == []


def test_progress_is_the_end_of_a_bad_run(queue: JobQueue, any_url: str) -> None:
    running(queue)
    store = open_store(any_url)
    store.create_study("a", {}, {}, 1)
    store.create_study("a.later", {}, {}, 1)
    store.close()
    by_hand(any_url, "UPDATE em_job SET fruitless = 4, starts = 5")
    by_hand(any_url, "UPDATE em_study SET n_items = 7 WHERE name = 'a.later'")
    claim = queue.jobs()[0]
    job = queue.ended(Claim(claim, "one", 1), ProcessEnd(75))
    assert (job.state, job.fruitless, job.last_progress) == (S.WAITING, 0, 7)


def test_the_user_with_the_fewest_slots_for_the_weight_goes_first(
    queue: JobQueue, accounts: Accounts
) -> None:
    accounts.add_user("eve", weight=3.0)
    for user, workers in (("ann", 2), ("bob", 1), ("eve", 1)):
        for i in range(4):
            name = f"{user}{i}"
            queue.submit(user, submission(name, place={"workers": workers}))
    order = [claimed(queue).job.user for _ in range(9)]
    # ann takes two slots a job; eve may have three for one of theirs.
    assert order == ["ann", "bob", "eve", "eve", "eve", "bob", "eve", "ann", "bob"]


def test_priority_goes_before_age(queue: JobQueue) -> None:
    for name, priority in (("a", 0), ("b", 5), ("c", -5), ("d", 5)):
        queue.submit("ann", submission(name, priority=priority))
    assert [claimed(queue).job.name for _ in range(4)] == ["b", "d", "a", "c"]


def test_a_user_has_no_more_jobs_at_once_than_granted(
    queue: JobQueue, accounts: Accounts
) -> None:
    accounts.add_user("eve", max_running=2)
    for i in range(3):
        queue.submit("eve", submission(f"e{i}"))
    first, _ = claimed(queue), claimed(queue)
    assert queue.claim("one") is None
    queue.ended(first, ProcessEnd(0))
    assert claimed(queue).job.name == "e2"


def test_a_claim_that_ran_out_is_good_until_somebody_takes_the_job(
    queue: JobQueue, any_url: str
) -> None:
    claim = running(queue)
    assert queue.sweep() == []
    run_out(any_url)
    assert queue.beat(claim) is S.RUNNING
    assert queue.sweep() == []
    run_out(any_url)
    (job,) = queue.sweep()
    assert (job.state, job.claim_by) == (S.QUEUED, None)
    assert faults(any_url) == []
    other = claimed(queue, "two")
    assert other.epoch == claim.epoch + 1
    for call in (
        lambda: queue.beat(claim),
        lambda: queue.started(claim),
        lambda: queue.ended(claim, ProcessEnd(0)),
        lambda: queue.release(claim),
    ):
        with pytest.raises(ClaimLostError, match="Job ann/a is no longer one's"):
            call()
    assert queue.beat(other) is S.STARTING


@pytest.mark.parametrize(
    ("wanted", "done"), [(Wanted.PAUSE, S.PAUSED), (Wanted.CANCEL, S.CANCELLED)]
)
def test_pause_and_cancel_outlive_the_supervisor(
    queue: JobQueue, any_url: str, wanted: Wanted, done: JobState
) -> None:
    running(queue)
    queue.want("ann", "a", wanted)
    run_out(any_url)
    assert [job.state for job in queue.sweep()] == [done]
    assert queue.claim("two") is None
    assert faults(any_url) == []


def test_a_job_that_costs_every_supervisor_fails(queue: JobQueue, any_url: str) -> None:
    queue.submit("ann", submission("a"))
    for _ in range(MAX_FRUITLESS):
        claimed(queue)
        run_out(any_url)
        (job,) = queue.sweep()
    assert job.state is S.FAILED
    assert job.why == (
        "5 starts in a row came to nothing; the last: its supervisor one was lost"
    )


def test_a_clock_that_was_set_back_blocks_no_job(queue: JobQueue, any_url: str) -> None:
    running(queue)
    by_hand(any_url, "UPDATE em_job SET claim_until = claim_until + 1e6")
    assert queue.sweep() == []
    left = ask(any_url, "SELECT claim_until - changed FROM em_job")
    assert left < CLAIM_S + 5


def test_an_end_is_written_once(queue: JobQueue) -> None:
    claim = running(queue)
    queue.ended(claim, ProcessEnd(0))
    for code in (0, 2, 75):
        with pytest.raises(ClaimLostError):
            queue.ended(claim, ProcessEnd(code))
    assert queue.get("ann", "a").state is S.FINISHED
    kinds = [event.kind for event in queue.events("ann", "a")]
    assert kinds == ["submitted", "claimed", "started", "ended"]


@pytest.mark.parametrize("wanted", Wanted)
def test_a_claim_is_given_back_as_it_was_taken(
    queue: JobQueue, any_url: str, wanted: Wanted
) -> None:
    queue.submit("ann", submission("a"))
    claim = claimed(queue)
    queue.want("ann", "a", wanted)
    expected = {"run": S.QUEUED, "pause": S.PAUSED, "cancel": S.CANCELLED}[wanted]
    job = queue.release(claim)
    assert (job.state, job.fruitless) == (expected, 0)
    assert faults(any_url) == []


def test_a_process_that_was_asked_to_end_is_no_failure(queue: JobQueue) -> None:
    job = queue.ended(running(queue), ProcessEnd(143, asked=True))
    assert (job.state, job.fruitless, job.due) == (S.QUEUED, 0, None)


def test_events_are_numbered_and_read_on_from_any(queue: JobQueue) -> None:
    queue.submit("ann", submission("a"))
    queue.submit("ann", submission("b"))
    for i in range(5):
        queue.record("ann", "a", "said", {"i": i})
    events = queue.events("ann", "a")
    assert [event.number for event in events] == [1, 2, 3, 4, 5, 6]
    assert queue.events("ann", "a", after=4) == events[4:]
    assert queue.events("ann", "a", limit=2) == events[:2]
    assert [event.number for event in queue.events("ann", "b")] == [1]


EDITS = {
    "state = 'odd'": "cannot be read",
    "state = 'finished'": "is finished, but one has it",
    "claim_by = NULL": "is running, but no supervisor has it",
    "wanted = 'pause'": "is running, and 'pause' is wanted of it",
    "fruitless = 9": "was started 1 times, 9 of them in vain",
    "slots = 3": "counts 3 slots, and asks for {}",
    "budget = '[]'": "cannot be read",
}


@pytest.mark.parametrize("edit", EDITS)
def test_a_job_edited_by_hand_is_found(
    queue: JobQueue, any_url: str, edit: str
) -> None:
    running(queue)
    assert faults(any_url) == []
    by_hand(any_url, f"UPDATE em_job SET {edit}")
    (found,) = faults(any_url)
    assert found.startswith("job ann/a: ")
    assert EDITS[edit] in found


def test_other_rows_of_the_service_edited_by_hand_are_found(
    queue: JobQueue, accounts: Accounts, any_url: str
) -> None:
    accounts.add_token("ann", "t", {Scope.READ})
    running(queue)
    by_hand(
        any_url,
        "UPDATE em_job_event SET number = 7 WHERE number = 2",
        "UPDATE em_job_event SET data = '[]' WHERE number = 1",
        "UPDATE em_user SET role = 'king' WHERE name = 'bob'",
        "UPDATE em_token SET scopes = '[\"all\"]'",
        "UPDATE em_bundle SET size_bytes = 1",
    )
    found = "\n".join(faults(any_url))
    for said in (
        "user 'bob': cannot be read",
        "token 't' of ann: cannot be read",
        "holds other files than its digest and size say",
        "event 1: cannot be read",
        "job ann/a: has events [3, 7], not 1, 2, 3 ...",
    ):
        assert said in found


EXPORT_EDITS = {
    "state = 'odd'": "export 1: cannot be read",
    "claim_by = NULL": "export 1: is running, and nobody has it",
    "state = 'queued'": "export 1: is queued, and one has it",
    "size_bytes = 7, fingerprint = 'f'": "export 1: is running, with 7 bytes of f",
    "why = 'it was so'": "export 1: is running, for the reason 'it was so'",
    "number = 2": "has exports [2], not 1, 2, 3 ...",
}


@pytest.mark.parametrize("edit", EXPORT_EDITS)
def test_an_export_edited_by_hand_is_found(
    queue: JobQueue, any_url: str, edit: str
) -> None:
    queue.submit("ann", submission("a"))
    store = open_store(any_url)
    store.create_study("a", {}, {}, 1)
    store.close()
    by_hand(any_url, "UPDATE em_study SET n_items = 1")
    exports = Exports(Database(any_url, create=False))
    exports.ask("ann", "a", None, is_scored=True)
    assert exports.claim("one") is not None
    exports.close()
    before = faults(any_url)  # nothing was scored of the study
    by_hand(any_url, f"UPDATE em_export SET {edit}")
    (found,) = set(faults(any_url)) - set(before)
    assert found.startswith("job ann/a")
    assert EXPORT_EDITS[edit] in found
    assert not any("export" in fault for fault in before)
