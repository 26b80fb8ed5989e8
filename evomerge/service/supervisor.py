"""A supervisor: claims jobs, runs each as a process, and says how that ended.

It decides nothing about studies: who may write one is its lease's matter, and what
becomes of a job is the queue's. All it knows is which processes it started; whatever
else must outlive it is a row.
"""

from __future__ import annotations

import logging
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from evomerge.core.policy import Policy
from evomerge.errors import (
    ClaimLostError,
    SchemaError,
    SpecError,
    StoreError,
    StoreUnreachableError,
)
from evomerge.exit_codes import ExitCode
from evomerge.service.environment import of_coordinator
from evomerge.service.policy import write_policy
from evomerge.service.processes import ChildProcess, Command, Process
from evomerge.store.queue.bundle import STUDY_FILE, Bundle
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import JobQueue
from evomerge.store.queue.values import Claim, Job, JobState

BEAT_S = 3.0
"""How often claims are prolonged, and what is wanted of jobs is looked at."""
KILL_AFTER_S = 20.0
"""How long a process has to end in order."""
LEAVE_AFTER_S = 20.0
"""How long a drained supervisor, its processes ended, waits for the database."""
POLL_S = 0.5

_STOPPING = (JobState.PAUSING, JobState.CANCELLING)
LOG = "coordinator.log"
"""What a job's processes say, in its folder; only ever added to."""
_POLICY = "policy.yaml"
_SPEECHLESS = (ExitCode.DEFECT, 120)
"""Ends of a Python that can write neither its log nor why: the disk may be full."""
_AWAY = "the database does not answer"
_FOREIGN = "the database has another schema than this replica"
_LEAST_BYTES = 1 << 16
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Site:
    """Where a supervisor's processes run.

    Attributes:
        url: Of the database; they get it by their environment.
        spool: Folder for the jobs' files and logs; ``spool/user/name`` is a job's. The
            same path on every machine that has supervisors of one database.
        options: Of ``evomerge run`` and ``resume``: ``--in-process``, or ``--address``.
        capacity: Jobs at once.
        policy: What studies may do; None lets them do all, which is for studies of
            one's own.
    """

    url: str
    spool: Path
    options: Sequence[str] = ("--in-process",)
    capacity: int = 4
    policy: Policy | None = None

    def folder(self, job: Job) -> Path:
        """Return a job's folder."""
        return self.spool / job.user / job.name


@dataclass
class _Child:
    claim: Claim
    process: Process
    asked_at: float | None = None
    is_lost: bool = False


class Supervisor:
    """Runs jobs of a queue, in the thread that calls ``run``.

    Args:
        queue: Of this thread alone.
        site: Where processes run.
        name: Names this supervisor and nobody else, not even an earlier one that had
            its place.
        start: Starts a process.
        is_ready: Whether it would be there at once: jobs are left to others until then.
        clock: Seconds that only grow.
    """

    def __init__(
        self,
        queue: JobQueue,
        site: Site,
        name: str,
        *,
        start: Callable[[Command], Process] = ChildProcess,
        is_ready: Callable[[], bool] = lambda: True,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._queue = queue
        self._site = site
        self._name = name
        self._start_process = start
        self._is_ready = is_ready
        self._clock = clock
        self._children: list[_Child] = []
        self._next_beat = clock()
        self._looked_at = clock()
        self._is_unsure = False  # whether the last step was cut off
        self._in_the_way: str | None = None
        self._away_since: float | None = None  # since it is draining
        self._draining = threading.Event()

    @property
    def obstacle(self) -> str | None:
        """Why it claims no jobs, in words for strangers; None if it does.

        It claims while it looks after the queue within three beats. From any thread.
        """
        if self._in_the_way is not None:
            return self._in_the_way
        is_late = self._clock() - self._looked_at > 3 * BEAT_S
        return "jobs are not claimed" if is_late or self._draining.is_set() else None

    def drain(self) -> None:
        """Claim no more, stop every process, and end ``run``; from any thread."""
        self._draining.set()

    def run(self) -> None:
        """Run jobs until drained; jobs whose processes were stopped are queued again.

        A database that does not answer is waited for: processes go on meanwhile. Once
        drained it is not waited for long, as claims run out.
        """
        try:
            while not (self._draining.is_set() and not self._children):
                try:
                    self.step()
                except StoreUnreachableError as error:
                    if self._in_the_way != _AWAY:
                        _logger.warning("%s", error)
                    self._in_the_way = _AWAY
                    if self._leaves_anyway():
                        break
                if self._draining.is_set():
                    time.sleep(POLL_S)  # for processes to end
                else:
                    self._draining.wait(POLL_S)
        finally:
            for child in self._children:
                child.process.stop()

    def _leaves_anyway(self) -> bool:
        """Tell whether nobody is left but ends that cannot be recorded."""
        if not self._draining.is_set():
            return False
        if self._away_since is None:
            self._away_since = self._clock()
        if self._clock() - self._away_since < LEAVE_AFTER_S:
            return False
        if any(child.process.poll() is None for child in self._children):
            return False
        for child in self._children:
            said = "How its process ended is not recorded; others run the job again."
            _logger.warning(said, extra=_about(child.claim.job))
        return True

    def step(self) -> None:
        """Look once at processes, claims and the queue.

        Raises:
            StoreUnreachableError: The database does not answer; call again.
        """
        self._kill_overdue()
        if self._draining.is_set():
            for child in self._children:
                self._stop(child)
        if not self._is_ours():
            self._leave_all()
            return
        if self._is_unsure:
            known = [c.claim.job.id for c in self._children if not c.is_lost]
            self._queue.give_back(self._name, known)
        self._is_unsure = True
        self._reap()
        if self._clock() >= self._next_beat:
            self._next_beat = self._clock() + BEAT_S
            self._beat()
            self._queue.sweep()
            self._queue.pause_beyond()
        while self._has_room():
            claim = self._queue.claim(self._name)
            if claim is None:
                break
            self._begin(claim)
        self._is_unsure = False
        self._looked_at = self._clock()
        self._in_the_way = self._away_since = None

    def _is_ours(self) -> bool:
        """Look whether the database's schema is one that coordinators can use.

        On another one each would end at once, and its job would have failed for good.
        """
        try:
            self._queue.check()
        except SchemaError as error:
            if self._in_the_way != _FOREIGN:
                _logger.error("%s This replica claims no jobs until then.", error)
            self._in_the_way = _FOREIGN
            return False
        return True

    def _leave_all(self) -> None:
        """Stop every process, and say nothing of it: claims run out."""
        for child in self._children:
            self._stop(child)
        self._is_unsure = True
        self._children = [c for c in self._children if c.process.poll() is None]

    def _has_room(self) -> bool:
        if self._draining.is_set() or len(self._children) >= self._site.capacity:
            return False
        return self._is_ready()

    def _begin(self, claim: Claim) -> None:
        try:
            process = self._start_process(self._command(claim.job))
        except StoreUnreachableError:
            raise  # the claim is given back in the next step
        except (OSError, StoreError, SpecError) as error:
            is_here = isinstance(error, OSError)  # a full disk; elsewhere it may go
            code = ExitCode.TRY_AGAIN if is_here else ExitCode.PUT_RIGHT
            self._tell_end(claim, ProcessEnd(code, str(error)))
            return
        child = _Child(claim, process)
        self._children.append(child)
        self._follow(child, self._queue.started)

    def _command(self, job: Job) -> Command:
        """Write a job's files, and say what to run."""
        policy = self._site.policy
        folder = self._site.folder(job)
        for each in (self._site.spool, folder.parent, folder):
            each.mkdir(mode=0o700, parents=True, exist_ok=True)
        place_files(self._queue.bundle(job), folder / "bundle")
        workers = _at_most(job.place.get("workers"), policy)
        options = [*self._site.options]
        if workers is not None and "--in-process" not in options:
            options += ["--workers", str(workers)]
        if job.budget and self._queue.is_recorded(job.study):
            words = ["resume", job.study]
            for key, value in job.budget.items():
                words += [f"--{key}", str(value)]
        else:
            words = ["run", str(folder / "bundle" / STUDY_FILE)]
        if policy is not None:
            file = folder / _POLICY
            write_policy(policy.with_roots(folder / "bundle"), file)
            options += ["--policy", str(file)]
        return Command(
            [sys.executable, "-m", "evomerge", *words, *options],
            folder,
            folder / LOG,
            {**of_coordinator(policy), "EVOMERGE_DB": self._site.url},
        )

    def _beat(self) -> None:
        for child in self._children:
            if not child.is_lost:
                self._follow(child, self._queue.beat)

    def _follow(self, child: _Child, say: Callable[[Claim], JobState]) -> None:
        """Tell the queue something of a job, and do as the job's state says."""
        try:
            state = say(child.claim)
            if state is JobState.STARTING:  # it was not told before
                state = self._queue.started(child.claim)
        except ClaimLostError as error:
            about = _about(child.claim.job)
            _logger.warning("%s Its process is stopped.", error, extra=about)
            child.is_lost = True
            self._stop(child)
            return
        if state in _STOPPING:
            self._stop(child)

    def _stop(self, child: _Child) -> None:
        if child.asked_at is None:
            child.asked_at = self._clock()
            child.process.stop()

    def _kill_overdue(self) -> None:
        for child in self._children:
            asked_at = child.asked_at
            if asked_at is not None and self._clock() - asked_at >= KILL_AFTER_S:
                child.process.kill()

    def _reap(self) -> None:
        for child in tuple(self._children):
            code = child.process.poll()
            if code is None:
                continue
            if not child.is_lost:
                asked = child.asked_at is not None
                end = ProcessEnd(code, child.process.last_words(), asked)
                if code in _SPEECHLESS and self._is_full():
                    said = f"no space is left in the spool, {self._site.spool}"
                    end = ProcessEnd(ExitCode.TRY_AGAIN, said, asked)
                self._tell_end(child.claim, end)
            self._children.remove(child)  # not before its end is recorded

    def _is_full(self) -> bool:
        return shutil.disk_usage(self._site.spool).free < _LEAST_BYTES

    def _tell_end(self, claim: Claim, end: ProcessEnd) -> None:
        try:
            job = self._queue.ended(claim, end)
        except ClaimLostError as error:
            _logger.warning("%s", error, extra=_about(claim.job))
            return
        _logger.info("Job %s is %s", job.address, job.state, extra=_about(job))


def _at_most(workers: Any, policy: Policy | None) -> Any:
    most = None if policy is None else policy.max_workers
    return workers if None in (workers, most) else min(workers, most)


def place_files(files: Bundle, folder: Path) -> None:
    """Write a bundle's files so that the folder holds these and no others.

    The folder is whole or absent, whenever a machine fails; one that holds the files
    already is left alone, and a path in it stays what it was.
    """
    try:
        if not folder.is_symlink() and Bundle.read(folder) == files:
            return
    except (OSError, SpecError):
        pass  # absent, or somebody's
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix="new-") as work:
        files.write(Path(work) / "bundle")
        if folder.is_symlink() or folder.is_file():
            folder.unlink()
        elif folder.exists():
            shutil.rmtree(folder)
        (Path(work) / "bundle").replace(folder)


def _about(job: Job) -> dict[str, str]:
    """Say what a line of the log is about."""
    return {"job": job.address, "study": job.study}
