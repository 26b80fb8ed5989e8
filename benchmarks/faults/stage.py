"""What faults strike: a server, replicas, and jobs that are never all finished."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg
from support.postgres import Server
from support.study_files import simulated_study

from evomerge.errors import StoreUnreachableError
from evomerge.service import supervisor
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.submission import Submission

AWAY = (psycopg.OperationalError, StoreUnreachableError)
"""What is raised where the database does not answer: it may just have been struck."""

USERS = ("ann", "bob")
TRIALS = 40
BLOCK_S = 0.1
_SHIM = Path(supervisor.__file__).with_name("die_with_parent.py")
_OVER = ("finished", "failed", "cancelled")
_REPLICA = """
import signal, sys, time
from pathlib import Path
from evomerge.service.forking.forks import Forks
from evomerge.service.supervisor import Site, Supervisor
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.tables import schema
url, spool, name, version, capacity, *options = sys.argv[1:]
if version:
    from evomerge.store.databases import database
    database.VERSIONS = (*schema.VERSIONS, version)
site = Site(url, Path(spool), options, capacity=int(capacity))
forks = Forks()
supervisor = Supervisor(
    open_queue(url), site, name, start=forks.start, is_ready=forks.is_ready
)
signal.signal(signal.SIGTERM, lambda *_: supervisor.drain())
supervisor.run()
"""
# Read by every Python of the replica and its coordinators, as a wrong clock would be.
_WRONG_CLOCK = """
import os, time
_right, _off = time.time, float(os.environ["EVOMERGE_TEST_CLOCK_S"])
time.time = lambda: _right() + _off
"""
_STANDINGS = """
SELECT j.name, u.name, j.state, j.why, j.claim_by, s.lease_pid, s.id,
  coalesce(s.n_items, 0) + (
    SELECT count(*) FROM em_attempt a WHERE a.study_id = s.id AND a.ended IS NOT NULL
    AND a.end <> 'interrupted')
FROM em_job j JOIN em_user u ON u.id = j.user_id
LEFT JOIN em_study s ON s.name = j.study ORDER BY j.id
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job and its study stand.

    Attributes:
        pid: Of the process that has the study's lease.
        progress: Items recorded and attempts ended; grows as long as the study lives.
    """

    name: str
    user: str
    state: str
    why: str | None
    replica: str | None
    pid: int | None
    study: int | None
    progress: int

    @property
    def is_over(self) -> bool:
        """Whether nothing more is to come of it."""
        return self.state in _OVER


@dataclass
class Replica:
    """A supervisor in a process of its own."""

    name: str
    process: subprocess.Popen[bytes]


@dataclass
class Stage:
    """A database server, replicas and jobs, in one folder.

    Attributes:
        capacity: Jobs that a replica runs at once.
        spool: Small enough to be filled, where file systems can be mounted.
        options: Of the replicas' coordinators.
        environment: Of the replicas, beside this process's.
    """

    folder: Path
    server: Server
    url: str
    models: Path
    spool: Path
    seed: int
    options: Sequence[str] = ("--in-process",)
    workers: int | None = None
    capacity: int = 4
    environment: Mapping[str, str] = field(default_factory=dict)
    replicas: list[Replica] = field(default_factory=list)
    n_jobs: int = 0
    n_replicas: int = 0
    refused: int = 0

    def __post_init__(self) -> None:
        accounts = open_accounts(self.url)
        for name in USERS:
            accounts.add_user(name)
        accounts.close()
        (self.folder / "clock").mkdir()
        (self.folder / "clock" / "sitecustomize.py").write_text(_WRONG_CLOCK)

    def start_replica(self, *, clock_s: float = 0.0, version: str = "") -> Replica:
        """Start one more replica.

        Args:
            clock_s: By how much its clock is wrong.
            version: The schema it believes in; the present one if empty.
        """
        name = f"r{self.n_replicas}"
        self.n_replicas += 1
        python_path = os.environ["PYTHONPATH"]
        environment = {**os.environ, **self.environment}
        environment["XDG_CACHE_HOME"] = str(self.folder / "cache")
        if clock_s:
            environment["EVOMERGE_TEST_CLOCK_S"] = str(clock_s)
            environment["PYTHONPATH"] = f"{self.folder}/clock{os.pathsep}{python_path}"
        words = [self.url, str(self.spool), name, version, str(self.capacity)]
        words += self.options
        shim = [sys.executable, "-I", "-S", str(_SHIM), str(os.getpid())]
        with (self.folder / f"{name}.log").open("wb") as log:
            process = subprocess.Popen(
                [*shim, sys.executable, "-c", _REPLICA, *words],
                env=environment,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        replica = Replica(name, process)
        if not version:
            self.replicas.append(replica)
        return replica

    def revive(self) -> None:
        """Start a replica for each that has ended, as a service manager would."""
        for replica in tuple(self.replicas):
            if replica.process.poll() is not None:
                self.replicas.remove(replica)
                self.start_replica()

    def submit(self) -> None:
        """Queue one more job."""
        name = f"s{self.seed}-{self.n_jobs:03}"
        files = Bundle({"study.yaml": json.dumps(self.study(name, BLOCK_S)).encode()})
        place = {} if self.workers is None else {"workers": self.workers}
        queue = open_queue(self.url)
        try:
            submission = Submission(name, name, files, place=place)
            queue.submit(USERS[self.n_jobs % 2], submission)
        finally:
            queue.close()
        self.n_jobs += 1

    def study(self, name: str, block_s: float) -> dict[str, Any]:
        """Return a study file; its name says all about it but its speed."""
        number = int(name.rpartition("-")[2])
        # Another landscape each, so that no study is given what another one scored.
        options: dict[str, Any] = {
            "items": 16,
            "sleep_s": block_s,
            "optimum": 0.2 + (self.seed % 997) / 5e3 + number / 1e3,
        }
        if number % 5 == 2:
            options |= {"fail_if": 0.02, "break_if": 0.02, "error_if": 0.02}
        task = {"task": "simulated", "metric": "acc", "options": options}
        kind = ("cma", "tpe", "random", "nsga2")[number % 4]
        both = [{"name": task, "measure": f"{task}/acc"} for task in ("one", "two")]
        return simulated_study(
            self.models,
            name=name,
            seed=self.seed + number,
            tasks={"one": task, "two": task},
            objectives=both if kind == "nsga2" else both[:1],
            items={"blocks": 4},
            strategy={"kind": kind, "generation_size": 4},
            budget={"trials": TRIALS},
        )

    def standings(self) -> list[Standing]:
        """Return where every job stands.

        Raises:
            psycopg.OperationalError: The database is away.
        """
        with psycopg.connect(self.url, autocommit=True) as connection:
            return [Standing(*row) for row in connection.execute(_STANDINGS)]

    def execute(self, statement: str, *values: Any) -> None:
        """Change rows by hand."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            connection.execute(statement.encode(), values)

    def log_of(self, standing: Standing) -> str:
        """Return what a job's coordinators said."""
        file = self.spool / standing.user / standing.name / "coordinator.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def logs(self) -> str:
        """Return the ends of what replicas and coordinators said."""
        files = [*self.folder.glob("r*.log"), *self.spool.rglob("*.log")]
        texts = {file: file.read_text(errors="replace")[-1000:] for file in files}
        return "\n".join(f"{file}: {text}" for file, text in texts.items())

    def close(self) -> None:
        """End every replica that is left, and wait for its coordinators' end."""
        for replica in self.replicas:
            with suppress(ProcessLookupError):
                replica.process.send_signal(signal.SIGCONT)
                replica.process.terminate()
        for replica in self.replicas:
            try:
                replica.process.wait(30)
            except subprocess.TimeoutExpired:
                replica.process.kill()
                replica.process.wait()
