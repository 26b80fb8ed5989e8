"""A supervisor with pretended processes and a clock that is set by hand."""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.jobs import bundle, due_now, run_out, submission
from support.searched import by_hand

from evomerge.core.policy import OFFLINE, Policy
from evomerge.errors import StoreUnreachableError
from evomerge.service import supervisor as supervisor_module
from evomerge.service.environment import of_coordinator, passed_on
from evomerge.service.policy import read_policy
from evomerge.service.processes import Command
from evomerge.service.supervisor import (
    BEAT_S,
    KILL_AFTER_S,
    LEAVE_AFTER_S,
    Site,
    Supervisor,
    place_files,
)
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.ending import MAX_IN_THE_WAY
from evomerge.store.queue.job_queue import JobQueue, open_queue
from evomerge.store.queue.values import JobState, Wanted
from evomerge.store.sql import open_store
from evomerge.store.tables.schema import VERSION_TABLE, VERSIONS

S = JobState


@dataclass
class Pretended:
    """A process that ends when the test says so."""

    command: Command
    code: int | None = None
    said: str = ""
    stops: int = 0
    kills: int = 0
    obeys: bool = True

    def poll(self) -> int | None:
        return self.code

    def stop(self) -> None:
        self.stops += 1
        if self.obeys:
            self.code = 143

    def kill(self) -> None:
        self.kills += 1
        self.code = -9

    def last_words(self) -> str:
        return self.said


@dataclass
class Machine:
    """A place with a supervisor, its processes and its clock."""

    url: str
    folder: Path
    queue: JobQueue
    now: float = 0.0
    processes: list[Pretended] = field(default_factory=list)
    fails: OSError | None = None
    is_ready: bool = True

    def supervisor(self, name: str = "one", capacity: int = 4) -> Supervisor:
        site = Site(self.url, self.folder / "spool", capacity=capacity)
        queue = open_queue(self.url)
        return Supervisor(
            queue,
            site,
            name,
            start=self.start,
            is_ready=lambda: self.is_ready,
            clock=lambda: self.now,
        )

    def start(self, command: Command) -> Pretended:
        if self.fails is not None:
            raise self.fails
        self.processes.append(Pretended(command))
        return self.processes[-1]

    def state(self, name: str = "a") -> JobState:
        return self.queue.get("ann", name).state

    def later(self, supervisor: Supervisor) -> None:
        self.now += BEAT_S
        supervisor.step()


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    url = f"sqlite:///{tmp_path}/jobs.db"
    accounts = open_accounts(url)
    accounts.add_user("ann")
    accounts.close()
    queue = open_queue(url)
    queue.submit("ann", submission("a", place={"workers": 3}))
    yield Machine(url, tmp_path, queue)
    queue.close()


def test_a_job_is_run_from_its_files_to_its_end(machine: Machine) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    assert machine.state() is S.RUNNING
    (process,) = machine.processes
    folder = machine.folder / "spool" / "ann" / "a"
    assert folder.stat().st_mode & 0o777 == 0o700
    assert (folder / "bundle" / "study.yaml").read_text() == "name: a\n"
    words = process.command.words[1:]
    study = str(folder / "bundle" / "study.yaml")
    assert words == ["-m", "evomerge", "run", study, "--in-process"]
    assert process.command.environment == {"EVOMERGE_DB": machine.url}
    supervisor.step()
    assert machine.state() is S.RUNNING
    process.code = 0
    supervisor.step()
    assert machine.state() is S.FINISHED
    assert len(machine.processes) == 1


def test_who_could_not_start_a_process_at_once_leaves_jobs_to_others(
    machine: Machine,
) -> None:
    supervisor = machine.supervisor()
    machine.is_ready = False
    machine.later(supervisor)
    assert machine.state() is S.QUEUED
    machine.is_ready = True
    machine.later(supervisor)
    assert machine.state() is S.RUNNING


def test_a_strangers_study_is_held_to_the_operators_policy(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("CLOUD_PASSWORD", "secret")
    models = machine.folder / "models"
    models.mkdir()
    site = Site(
        machine.url, machine.folder / "spool", policy=Policy(roots=(str(models),))
    )
    supervisor = Supervisor(
        open_queue(machine.url), site, "one", start=machine.start, clock=lambda: 0.0
    )
    supervisor.step()
    command = machine.processes[0].command
    *_, option, file = command.words
    assert option == "--policy"
    bundle = str(command.folder / "bundle")
    assert read_policy(Path(file)) == Policy(roots=(str(models), bundle))
    assert command.environment == {"EVOMERGE_DB": machine.url, **OFFLINE}
    assert not {"HF_TOKEN", "CLOUD_PASSWORD"} & passed_on().keys()
    assert of_coordinator(Policy(hub=True)) == {"HF_TOKEN": "hf_secret"}


def test_a_larger_budget_goes_on_with_the_study_there_is(machine: Machine) -> None:
    site = Site(machine.url, machine.folder / "spool", ("--address", "head:6379"))
    supervisor = Supervisor(
        open_queue(machine.url), site, "one", start=machine.start, clock=lambda: 0.0
    )
    supervisor.step()
    options = ["--address", "head:6379", "--workers", "3"]
    assert machine.processes[0].command.words[5:] == options
    machine.processes[0].code = 0
    supervisor.step()
    store = open_store(machine.url)
    store.create_study("a", {}, {}, 1)
    store.close()
    machine.queue.resume("ann", "a", budget={"trials": 40, "minutes": 1.5})
    supervisor.step()
    words = machine.processes[1].command.words[3:]
    budget = ["--minutes", "1.5", "--trials", "40"]
    assert words == ["resume", "a", *budget, *options]


def test_no_more_jobs_run_than_there_is_room_for(machine: Machine) -> None:
    for name in "bcd":
        machine.queue.submit("ann", submission(name))
    supervisor = machine.supervisor(capacity=2)
    supervisor.step()
    assert len(machine.processes) == 2
    machine.processes[0].code = 0
    supervisor.step()
    assert len(machine.processes) == 3


@pytest.mark.parametrize(
    ("wanted", "done"), [(Wanted.PAUSE, S.PAUSED), (Wanted.CANCEL, S.CANCELLED)]
)
@pytest.mark.parametrize("obeys", [True, False])
def test_pause_and_cancel_reach_the_process(
    machine: Machine, wanted: Wanted, done: JobState, obeys: bool
) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    (process,) = machine.processes
    process.obeys = obeys
    machine.queue.want("ann", "a", wanted)
    machine.later(supervisor)
    machine.later(supervisor)
    assert process.stops == 1
    if not obeys:
        assert process.kills == 0
        machine.now += KILL_AFTER_S
        supervisor.step()
        assert process.kills == 1
    assert machine.state() is done
    machine.later(supervisor)
    assert len(machine.processes) == 1
    machine.queue.resume("ann", "a")
    supervisor.step()
    assert machine.state() is S.RUNNING


def test_a_lost_claim_stops_the_process_and_says_nothing(machine: Machine) -> None:
    supervisor, other = machine.supervisor(), machine.supervisor("two")
    supervisor.step()
    run_out(machine.url)
    other.step()
    assert [job.claim_by for job in machine.queue.jobs()] == ["two"]
    machine.later(supervisor)
    assert [process.stops for process in machine.processes] == [1, 0]
    supervisor.step()
    assert machine.state() is S.RUNNING
    events = [event.kind for event in machine.queue.events("ann", "a")]
    assert events == [
        *("submitted", "claimed", "started", "supervisor_lost", "claimed", "started")
    ]


def test_an_end_that_comes_after_the_claim_was_lost_says_nothing(
    machine: Machine,
) -> None:
    supervisor, other = machine.supervisor(), machine.supervisor("two")
    supervisor.step()
    run_out(machine.url)
    other.step()
    machine.processes[0].code = 0
    supervisor.step()
    assert machine.state() is S.RUNNING


def test_restarts_that_bear_no_fruit_end_with_the_cause(machine: Machine) -> None:
    supervisor = machine.supervisor()
    for start in range(MAX_IN_THE_WAY):
        supervisor.step()
        assert len(machine.processes) == start + 1
        machine.processes[-1].code = 75
        machine.processes[-1].said = "Ray is away"
        supervisor.step()
        due_now(machine.url)
    job = machine.queue.get("ann", "a")
    assert job.state is S.FAILED
    assert job.why is not None
    assert job.why.endswith("something was in the way: Ray is away")
    supervisor.step()
    assert len(machine.processes) == MAX_IN_THE_WAY


def test_what_cannot_be_started_is_tried_again(machine: Machine) -> None:
    machine.fails = OSError(28, "No space left on device")
    supervisor = machine.supervisor()
    supervisor.step()
    job = machine.queue.get("ann", "a")
    assert job.state is S.WAITING
    assert job.why is not None
    assert "No space left on device" in job.why


def test_an_end_on_a_full_disk_is_no_defect(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    full = shutil.disk_usage(machine.folder)._replace(free=4096)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: full)
    machine.processes[0].code = 1
    supervisor.step()
    job = machine.queue.get("ann", "a")
    assert job.state is S.WAITING
    assert job.why is not None
    assert job.why.startswith("something was in the way: no space is left")


def test_a_drained_supervisor_queues_its_jobs_and_claims_no_more(
    machine: Machine,
) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    machine.queue.submit("ann", submission("b"))
    supervisor.drain()
    supervisor.run()
    assert machine.processes[0].stops == 1
    assert len(machine.processes) == 1
    assert {job.state for job in machine.queue.jobs()} == {S.QUEUED}
    assert machine.queue.get("ann", "a").fruitless == 0


def test_a_database_that_is_away_is_waited_for(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    real = JobQueue.ended
    calls = []

    def away(queue: JobQueue, *words: object) -> object:
        calls.append(words)
        if len(calls) < 3:
            raise StoreUnreachableError("The database does not answer.")
        supervisor.drain()
        return real(queue, *words)  # type: ignore[arg-type]

    monkeypatch.setattr(JobQueue, "ended", away)
    machine.processes[0].code = 0
    runner = threading.Thread(target=supervisor.run)
    runner.start()
    runner.join(20)
    assert len(calls) == 3
    assert machine.state() is S.FINISHED


def test_a_drained_supervisor_does_not_wait_long_for_a_database(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "POLL_S", 0.01)
    supervisor = machine.supervisor()
    supervisor.step()
    looks: list[float] = []

    def away(queue: JobQueue) -> None:
        del queue
        machine.now += 1.0
        looks.append(machine.now)
        raise StoreUnreachableError("The database does not answer.")

    with monkeypatch.context() as patched:
        patched.setattr(JobQueue, "check", away)
        supervisor.drain()
        supervisor.run()
    assert looks[-1] - looks[0] == LEAVE_AFTER_S
    assert machine.processes[0].stops >= 1
    assert machine.state() is S.RUNNING  # until the claim runs out


@pytest.mark.parametrize("lost", ["claim", "bundle", "started"])
def test_what_was_cut_off_while_a_job_was_begun_is_made_good_at_once(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, lost: str
) -> None:
    real = getattr(JobQueue, lost)

    def cut(queue: JobQueue, *words: object) -> object:
        if lost == "claim":
            real(queue, *words)  # it was done, and only the answer did not come
        raise StoreUnreachableError("The database does not answer.")

    supervisor = machine.supervisor()
    with monkeypatch.context() as patched:
        patched.setattr(JobQueue, lost, cut)
        with pytest.raises(StoreUnreachableError):
            supervisor.step()
    assert machine.state() is S.STARTING
    machine.later(supervisor)
    assert machine.state() is S.RUNNING
    assert len(machine.processes) == 1
    assert machine.queue.get("ann", "a").fruitless == 0


def test_on_a_database_of_another_schema_no_job_is_claimed_and_none_fails(
    machine: Machine,
) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    machine.queue.submit("ann", submission("b"))
    by_hand(machine.url, f"UPDATE {VERSION_TABLE} SET version_num = '0099'")
    machine.processes[0].code = 2  # a coordinator that met it, too
    machine.later(supervisor)
    machine.later(supervisor)
    assert len(machine.processes) == 1
    assert (machine.state("a"), machine.state("b")) == (S.RUNNING, S.QUEUED)
    assert supervisor.obstacle is not None
    assert "another schema" in supervisor.obstacle
    by_hand(machine.url, f"UPDATE {VERSION_TABLE} SET version_num = '{VERSIONS[-1]}'")
    machine.later(supervisor)
    assert supervisor.obstacle is None
    assert {machine.state("a"), machine.state("b")} == {S.RUNNING}
    assert len(machine.processes) == 3


def test_processes_on_a_database_of_another_schema_are_stopped(
    machine: Machine, caplog: pytest.LogCaptureFixture
) -> None:
    supervisor = machine.supervisor()
    supervisor.step()
    by_hand(machine.url, f"UPDATE {VERSION_TABLE} SET version_num = '0099'")
    machine.later(supervisor)
    machine.later(supervisor)
    assert machine.processes[0].stops == 1
    assert [m for m in caplog.messages if "claims no jobs" in m] == [
        m for m in caplog.messages if "schema 0099" in m
    ]
    supervisor.drain()
    supervisor.run()  # ends


def test_files_are_placed_whole_and_once(tmp_path: Path) -> None:
    files = submission("a").bundle
    folder = tmp_path / "bundle"
    place_files(files, folder)
    kept = (folder / "study.yaml").stat()
    place_files(files, folder)
    found = (folder / "study.yaml").stat()  # reading it changed when it was read
    assert (found.st_ino, found.st_mtime_ns) == (kept.st_ino, kept.st_mtime_ns)
    (folder / "more").write_text("somebody's")
    place_files(files, folder)
    assert [path.name for path in folder.iterdir()] == ["study.yaml"]
    away = tmp_path / "away"
    folder.rename(away)
    folder.symlink_to(away)
    (away / "more").write_text("not to be touched")
    place_files(files, folder)
    assert not folder.is_symlink()
    assert (away / "more").exists()
    assert sorted(path.name for path in tmp_path.iterdir()) == ["away", "bundle"]


def test_a_study_that_cannot_run_has_failed_with_what_is_wrong_in_it(
    machine: Machine,
) -> None:
    machine.queue.want("ann", "a", Wanted.CANCEL)
    machine.queue.submit("ann", submission("b", bundle=bundle("name: b\nodd: 1\n")))
    site = Site(machine.url, machine.folder / "spool")
    supervisor = Supervisor(open_queue(machine.url), site, "real")
    end = time.monotonic() + 50
    while not machine.state("b").is_final:
        supervisor.step()
        assert time.monotonic() < end
        time.sleep(0.1)
    job = machine.queue.get("ann", "b")
    assert (job.state, job.starts) == (S.FAILED, 1)
    assert job.why is not None
    assert job.why.startswith("its study cannot run: study.yaml")
    assert "odd" in job.why
