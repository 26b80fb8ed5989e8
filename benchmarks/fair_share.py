"""Who gets a service's slots, and what deciding that costs its database.

    PYTHONPATH=tests python benchmarks/fair_share.py [--database SQLite]

A hundred jobs of eight users are queued, twelve run at once. Queue and supervisor are
the real ones; the jobs' processes are pretended and take virtual time, from one to five
minutes by user, and each job asks for one to four workers. Half of the users have four
times as many jobs as the others, and theirs are queued first. Shares are of the time in
which everybody has a job queued: worker-seconds of the user with fewest over those of
the user with most, and Jain's index (1 if all are equal, 1/8 if one has all). What jobs
would have got in the order in which they came is reckoned beside it.
"""

from __future__ import annotations

import argparse
import heapq
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import sqlalchemy as sa
from store import databases
from support.jobs import submission

from evomerge.service.processes import Command
from evomerge.service.supervisor import POLL_S, Site, Supervisor
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.job_queue import open_queue

USERS = tuple(f"user{i}" for i in range(8))
CAPACITY = 12
N_JOBS = (20, 20, 20, 20, 5, 5, 5, 5)


@dataclass(frozen=True)
class Work:
    """A job that is to be done."""

    user: str
    name: str
    workers: int
    seconds: float


@dataclass
class Pretended:
    """A process that ends at a time."""

    ends: float
    now: list[float]

    def poll(self) -> int | None:
        """Return 0 once its time has come."""
        return 0 if self.now[0] >= self.ends else None

    def stop(self) -> None:
        """Nobody asks for it."""
        raise AssertionError

    kill = stop

    def last_words(self) -> str:
        """Say nothing."""
        return ""


@dataclass
class Processes:
    """What a supervisor started, and the time by its clock."""

    works: dict[str, Work]
    now: list[float] = field(default_factory=lambda: [0.0])
    begun: list[tuple[float, Work]] = field(default_factory=list)

    def start(self, command: Command) -> Pretended:
        """Begin a job."""
        work = self.works[command.folder.name]
        self.begun.append((self.now[0], work))
        return Pretended(self.now[0] + work.seconds, self.now)


def all_work() -> list[Work]:
    """Return the jobs in the order in which they are queued."""
    return [
        Work(user, f"{user}-{k}", 1 + (i + k) % 4, 60.0 + 240.0 * i / (len(USERS) - 1))
        for i, (user, n_jobs) in enumerate(zip(USERS, N_JOBS, strict=True))
        for k in range(n_jobs)
    ]


def in_order(works: Sequence[Work]) -> list[tuple[float, Work]]:
    """Return when jobs would begin in the order of their coming."""
    free = [0.0] * CAPACITY
    begun = []
    for work in works:
        at = heapq.heappop(free)
        heapq.heappush(free, at + work.seconds)
        begun.append((at, work))
    return begun


def shares(begun: Sequence[tuple[float, Work]]) -> tuple[float, float, float]:
    """Return fewest over most, Jain's index, and the seconds they are of."""
    last = {work.user: at for at, work in begun}  # in order of time
    until = min(last.values()) or max(last.values())
    used = dict.fromkeys(USERS, 0.0)
    for at, work in begun:
        used[work.user] += work.workers * max(0.0, min(at + work.seconds, until) - at)
    found = list(used.values())
    jain = sum(found) ** 2 / (len(found) * sum(x * x for x in found))
    return min(found) / max(found), jain, until


def run(url: str, folder: Path, n_statements: Counter[str]) -> list[float]:
    """Run every job; return shares, then seconds of virtual time and of CPU."""
    works = all_work()
    accounts, queue = open_accounts(url), open_queue(url)
    for user in USERS:
        accounts.add_user(user)
    for work in works:
        place = {"workers": work.workers}
        queue.submit(work.user, submission(work.name, place=place))
    started = Processes({work.name: work for work in works})
    supervisor = Supervisor(
        open_queue(url),
        Site(url, folder / "spool", capacity=CAPACITY),
        "one",
        start=started.start,
        clock=lambda: started.now[0],
    )
    n_statements.clear()
    began, done = time.process_time(), 0
    while done < len(works):
        supervisor.step()
        started.now[0] += POLL_S
        done = sum(
            at + work.seconds < started.now[0] - POLL_S for at, work in started.begun
        )
    cpu = time.process_time() - began
    accounts.close()
    queue.close()
    return [*shares(started.begun), started.now[0], cpu]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--database", choices=["SQLite", "PostgreSQL"])
    given = parser.parse_args()
    counted: Counter[str] = Counter()
    for kind in ("before_cursor_execute", "commit"):
        sa.event.listen(sa.Engine, kind, lambda *_, kind=kind: counted.update((kind,)))
    with tempfile.TemporaryDirectory() as folder, databases() as places:
        line = "{:12} fewest/most {:5.2f}  Jain {:5.3f}  in {:4.0f} s"
        print(line.format("as they came", *shares(in_order(all_work()))))
        for name, url in places:
            if given.database in (None, name):
                *fair, virtual_s, cpu_s = run(url, Path(folder) / name, counted)
                print(
                    line.format(name, *fair),
                    f" {len(all_work())} jobs in {virtual_s:.0f} s;"
                    f" a second: {counted['before_cursor_execute'] / virtual_s:.1f}"
                    f" statements, {counted['commit'] / virtual_s:.1f} transactions,"
                    f" {1000 * cpu_s / virtual_s:.1f} ms CPU",
                )


if __name__ == "__main__":
    main()
