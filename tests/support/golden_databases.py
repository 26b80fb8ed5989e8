"""Databases of every schema version, as it left them: killed in the middle of a study.

``python -m support.golden_databases FOLDER`` adds those of the present version
that are missing. What is there is never written again: it stands for what users have.
"""

from __future__ import annotations

import gzip
import os
import re
import signal
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.work import PoolEvent
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.store.owner import this_process
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.ending import ProcessEnd
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.submission import Submission
from evomerge.store.queue.values import Scope, Wanted
from evomerge.store.sql import open_store
from evomerge.store.tables.schema import VERSIONS
from evomerge.testing.search import SmallStudy
from support.postgres import programs, running
from support.searched import connected

FOLDER = Path(__file__).parents[2] / "tests" / "golden" / "databases"
KILLS = (25, 30)
"""Pool events after which each run is killed."""

# Written by newer programs, and not understood by older servers.
_NOISE = re.compile(r"^(\\(un)?restrict|SET transaction_timeout).*\n", re.MULTILINE)


def study_of(name: str) -> SmallStudy:
    """Return the study in a golden database, to go on with it.

    The file's name says which strategy; where it says none, it is the NSGA-II that
    evomerge had before its own, whose proposals nothing repeats any more.
    """
    is_first = name.startswith("version-1-")
    faults = {"fail_if": 0.25, "break_if": 0.3, "fault_times": 1}
    return SmallStudy(
        StrategySettings("tpe" if "-tpe." in name else "nsga2", 5),
        Budget(trials=20),
        options={"fail_if": 0.15} if is_first else faults,
        objectives=("x", "y"),
        version=1,  # as all of them were recorded
    )


def unpacked(file: Path) -> bytes:
    """Return what a golden file holds: a database file, or SQL."""
    return gzip.decompress(file.read_bytes())


def dump(url: str) -> str:
    """Return a PostgreSQL database as SQL that any driver can run."""
    told = ("--no-owner", "--no-privileges", "--inserts", "--dbname", url)
    done = subprocess.run(
        [programs() / "pg_dump", *told], capture_output=True, text=True, check=True
    )
    return _NOISE.sub("", done.stdout)


def restore(url: str, sql: str) -> None:
    """Run dumped SQL in an empty PostgreSQL database."""
    with connected(url) as connection:
        connection.exec_driver_sql(sql)


def make(folder: Path = FOLDER) -> list[Path]:
    """Add the databases of the present version that are missing; return them."""
    version = VERSIONS[-1]
    start = f"version-{int(version)}"
    made = []
    with tempfile.TemporaryDirectory() as work:
        lite = folder / f"{start}-sqlite-tpe.db.gz"
        if not lite.exists():
            file = Path(work) / "x.db"
            _leave_killed(f"sqlite:///{file}", Path(work) / "sqlite", lite.name)
            _leave_jobs(f"sqlite:///{file}")
            _fold_log(file)
            made.append(_pack(lite, file.read_bytes()))
        server = folder / f"{start}-postgres-tpe.sql.gz"
        if not server.exists():
            with running() as postgres:
                url = postgres.database()
                _leave_killed(url, Path(work) / "postgres", server.name)
                _leave_jobs(url)
                made.append(_pack(server, dump(url).encode()))
    return made


class _Doomed(InProcessPool):
    """Kills its own process after so many events, in the middle of an attempt."""

    left = 0

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        events = super().poll(timeout_s)
        self.left -= len(events)
        if self.left <= 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return events


def _leave_killed(url: str, cache: Path, name: str) -> None:
    small = study_of(name)
    for kill_at in KILLS:
        child = os.fork()
        if child == 0:
            _run_and_die(url, cache, small, kill_at)
        _, status = os.waitpid(child, 0)
        if not os.WIFSIGNALED(status):
            raise RuntimeError(f"Nothing was killed: the run ended with {status}.")


def _run_and_die(url: str, cache: Path, small: SmallStudy, kill_at: int) -> None:
    try:
        store = open_store(url)
        plan, setup = small.plan(), small.setup(cache)
        if not store.studies():
            store.create_study(plan.name, small.config, {}, plan.seed)
        pool = _Doomed(lambda: Evaluator(setup))
        pool.left = kill_at
        Coordinator(plan, store, pool, this_process()).run()
    finally:
        os._exit(1)  # only if it was not killed


def _leave_jobs(url: str) -> None:
    """Leave a user with a token, and a job in every kind of state."""
    accounts = open_accounts(url)
    accounts.add_user("ann", weight=2.0, max_running=4)
    accounts.add_token("ann", "laptop", {Scope.READ, Scope.WRITE}, 1e9)
    accounts.close()
    queue = open_queue(url)
    files = Bundle({"study.yaml": b"name: small\n", "tasks/sums.jsonl": b"{}\n"})
    for name in ("done", "again", "killed", "cancelled", "queued"):
        queue.submit("ann", Submission(name, name, files, place={"workers": 2}))
    for code in (0, 75, None):
        claim = queue.claim("supervisor")
        if claim is not None:
            queue.started(claim)
            if code is not None:
                queue.ended(claim, ProcessEnd(code))
    queue.want("ann", "cancelled", Wanted.CANCEL)
    queue.close()


def _fold_log(file: Path) -> None:
    """Fold the log into the file, as the next one to open it does."""
    open_store(f"sqlite:///{file}").close()


def _pack(file: Path, content: bytes) -> Path:
    file.write_bytes(gzip.compress(content, mtime=0))
    return file


if __name__ == "__main__":
    for path in make(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER):
        sys.stdout.write(f"{path}\n")
