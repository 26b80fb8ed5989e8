"""The service on a pretended machine: replicas over one database, and their jobs."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg

from evomerge import api
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.submission import Submission
from evomerge.store.queue.values import JobEvent
from support.contents import Verdict, contents, verdict
from support.machines.cluster import Cluster, cache_of
from support.machines.machine import Machine, Running

USER = "ann"
_REPLICA = """
import sys
from pathlib import Path
from evomerge.service.supervisor import Site, Supervisor
from evomerge.store.queue.job_queue import open_queue
url, spool, name, *options = sys.argv[1:]
Supervisor(open_queue(url), Site(url, Path(spool), options), name).run()
"""
_STANDING = """
SELECT j.state, j.why, j.claim_by, s.lease_pid, coalesce(s.n_items, 0),
  count(a.ended) FILTER (WHERE a.end <> 'interrupted'),
  count(*) FILTER (WHERE a.end = 'fault'),
  count(DISTINCT a.worker) FILTER (WHERE a.ended IS NULL)
FROM em_job j LEFT JOIN em_study s ON s.name = j.study
LEFT JOIN em_attempt a ON a.study_id = s.id
WHERE j.name = %s GROUP BY j.id, s.id
"""
_PARTS_DONE = """
SELECT count(*) FROM em_part p JOIN em_worker w ON w.id = p.worker
JOIN em_job j ON j.name = %s JOIN em_study s ON s.name = j.study AND s.id = p.study_id
WHERE w.ip = %s AND p.end = 'scored'
"""


@dataclass(frozen=True, slots=True)
class Standing:
    """Where a job and its study stand.

    Attributes:
        pid: Of the coordinator, as its own machine numbers it.
        attempts: Ended, other than by the coordinator's end.
        faults: Of them, spoilt by a machine.
        at_work: Workers that are at a trial.
    """

    state: str
    why: str | None
    replica: str | None
    pid: int | None
    items: int
    attempts: int
    faults: int
    at_work: int


class Service:
    """Replicas on one machine, with a spool of their own.

    Args:
        cluster: Whose Ray they use; the machine has joined it.
        machine: Where they run.
        url: Of the database.
    """

    def __init__(self, cluster: Cluster, machine: Machine, url: str) -> None:
        self._cluster = cluster
        self._machine = machine
        self.url = url
        self._spool = machine.folder / "spool"
        self.replicas: dict[str, Running] = {}
        self._n_replicas = 0
        accounts = open_accounts(url)
        accounts.add_user(USER)
        accounts.close()

    def start_replica(self) -> str:
        """Start one more replica; return its name."""
        name = f"r{self._n_replicas}"
        self._n_replicas += 1
        options = ["--address", self._cluster.address]
        words = [sys.executable, "-c", _REPLICA, self.url, str(self._spool), name]
        environment = {**self._cluster.environment, **cache_of(self._machine)}
        self.replicas[name] = self._machine.run(
            [*words, *options], f"{name}.log", environment
        )
        return name

    def submit(self, study: Mapping[str, Any], files: Mapping[str, bytes]) -> None:
        """Queue a study for two workers."""
        name = study["name"]
        bundle = Bundle({**files, "study.yaml": json.dumps(study).encode()})
        queue = open_queue(self.url)
        try:
            queue.submit(USER, Submission(name, name, bundle, place={"workers": 2}))
        finally:
            queue.close()

    def standing(self, name: str) -> Standing:
        """Return where a job stands."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(_STANDING, [name]).fetchone()
        assert row is not None
        return Standing(*row)

    def parts_done(self, name: str, machine: Machine) -> int:
        """Return how many parts of a study's trials a machine's workers have done."""
        with psycopg.connect(self.url, autocommit=True) as connection:
            row = connection.execute(_PARTS_DONE, [name, machine.address]).fetchone()
        assert row is not None
        return int(row[0])

    def events(self, name: str) -> Sequence[JobEvent]:
        """Return what happened to a job."""
        queue = open_queue(self.url)
        try:
            return queue.events(USER, name)
        finally:
            queue.close()

    def coordinator(self, name: str) -> int:
        """Return the process of a job's coordinator, as this process numbers it."""
        (pid,) = [
            pid for pid in self._machine.named("-m evomerge") if self._is_at(pid, name)
        ]
        return pid

    def _is_at(self, pid: int, name: str) -> bool:
        folder = self._spool / USER / name
        return Path(f"/proc/{pid}/cwd").resolve() == folder

    def log(self, name: str) -> str:
        """Return what a job's coordinators said."""
        file = self._spool / USER / name / "coordinator.log"
        return file.read_text(errors="replace") if file.exists() else ""

    def compared(
        self, study: Mapping[str, Any], files: Mapping[str, bytes], folder: Path
    ) -> Verdict:
        """Compare a study that has ended with the same one, undisturbed.

        Args:
            study: As it runs undisturbed: with no pauses.
            files: Beside it.
            folder: For the undisturbed one.
        """
        Bundle({**files, "study.yaml": json.dumps(study).encode()}).write(folder)
        url = f"sqlite:///{folder}/calm.db"
        where = api.Where(None, None, True, folder / "cache")
        api.search(api.prepare(folder / "study.yaml", db=url, where=where))
        name = study["name"]
        calm, found = contents(url, name), contents(self.url, name)
        return verdict(calm, found, folder / "nothing-promised", over=True)
