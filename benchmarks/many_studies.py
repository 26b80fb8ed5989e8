"""What many studies at once take: memory and processor time of their coordinators.

    PYTHONPATH=tests python benchmarks/many_studies.py [--jobs 100] [--capacity 12]

Jobs of eight users lie in the queue of a PostgreSQL of their own, started here; half of
the users have four times as many, queued first. A real supervisor runs a dozen at once,
each in a process of its own with the simulated engine, whose blocks take time and no
work. Looked at twice a second: who has slots (Jain's index while everybody has a job
queued), the memory that is a coordinator's own (USS) and its share of all (PSS), its
processor time, and the transactions and rows of the database.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import psutil
import psycopg
from faults.stage import Stage
from support.postgres import running
from support.study_files import simulated_study, write_models

from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.bundle import Bundle
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.queue.submission import Submission

USERS = tuple(f"user{i}" for i in range(8))
LOOK_S = 0.5
OVER = ("finished", "failed", "cancelled")
_JOBS = """
SELECT u.name, j.state, s.lease_pid FROM em_job j JOIN em_user u ON u.id = j.user_id
LEFT JOIN em_study s ON s.name = j.study
"""
_LOAD = """
SELECT xact_commit + xact_rollback, tup_returned, tup_inserted + tup_updated
FROM pg_stat_database WHERE datname = current_database()
"""


@dataclass
class Seen:
    """What was seen of the coordinators, by process id."""

    slots: Counter[str] = field(default_factory=Counter)  # seconds, by user
    is_contested: bool = True
    uss: dict[int, int] = field(default_factory=dict)
    pss: dict[int, int] = field(default_factory=dict)
    cpu_s: dict[int, float] = field(default_factory=dict)
    most_running: int = 0

    def look(self, jobs: list[tuple[str, str, int | None]], passed_s: float) -> None:
        """Note how things stand."""
        going = [job for job in jobs if job[1] in ("starting", "running")]
        self.most_running = max(self.most_running, len(going))
        queued = {user for user, state, _ in jobs if state == "queued"}
        self.is_contested = self.is_contested and queued == set(USERS)
        if self.is_contested:
            for user, _, _ in going:
                self.slots[user] += passed_s
        for _, _, pid in going:
            if pid is not None:
                self._measure(pid)

    def _measure(self, pid: int) -> None:
        try:
            process = psutil.Process(pid)
            memory, cpu = process.memory_full_info(), process.cpu_times()
        except psutil.Error:
            return  # it has ended meanwhile
        self.uss[pid] = max(self.uss.get(pid, 0), memory.uss)
        self.pss[pid] = max(self.pss.get(pid, 0), memory.pss)
        self.cpu_s[pid] = cpu.user + cpu.system


def queue_jobs(stage: Stage, asked: argparse.Namespace) -> None:
    """Queue every job; those of the users with many first."""
    accounts = open_accounts(stage.url)
    for user in USERS:
        accounts.add_user(user)
    accounts.close()
    many, few = USERS[: len(USERS) // 2], USERS[len(USERS) // 2 :]
    owners = [u for u in many for _ in range(asked.jobs // 5)]
    owners += [u for u in few for _ in range(asked.jobs // 20)]
    queue = open_queue(stage.url)
    for number, user in enumerate(owners):
        name = f"study-{number:03}"
        # Another landscape each, so that no study is given what another one scored.
        options = {"items": 40, "sleep_s": asked.block_s, "optimum": number / 200}
        task = {"task": "simulated", "metric": "acc", "options": options}
        study = simulated_study(
            stage.models,
            name=name,
            seed=number,
            tasks={"one": task, "two": task},
            items={"blocks": 8},
            strategy={"kind": "cma", "generation_size": 8},
            budget={"trials": asked.trials},
        )
        files = Bundle({"study.yaml": json.dumps(study).encode()})
        queue.submit(user, Submission(name, name, files))
    queue.close()


def run(stage: Stage, asked: argparse.Namespace) -> None:
    """Run every job and print what it took."""
    seen, began = Seen(), time.monotonic()
    with psycopg.connect(stage.url, autocommit=True) as connection:
        before = connection.execute(_LOAD).fetchone() or ()
        last = began
        while True:
            time.sleep(LOOK_S)
            jobs = connection.execute(_JOBS).fetchall()
            now = time.monotonic()
            seen.look(jobs, now - last)
            last = now
            if all(state in OVER for _, state, _ in jobs):
                break
        seconds = last - began
        time.sleep(2 * LOOK_S)  # what a server counts is late
        after = connection.execute(_LOAD).fetchone() or ()
        trials = connection.execute("SELECT count(*) FROM em_trial").fetchone()
        states = Counter(state for _, state, _ in jobs)
    n_trials = 0 if trials is None else trials[0]
    used = [seen.slots[user] for user in USERS]
    jain = sum(used) ** 2 / (len(used) * sum(x * x for x in used))
    load = [(b - a) / seconds for a, b in zip(before, after, strict=True)]
    cpu_ms = 1000 * sum(seen.cpu_s.values()) / n_trials
    own, share = (
        f"{statistics.median(found) / 1e6:.0f} (most {max(found) / 1e6:.0f})"
        for found in (seen.uss.values(), seen.pss.values())
    )
    print(
        f"{len(jobs)} jobs {dict(states)}, {n_trials} trials, {seconds:.0f} s, "
        f"{seen.most_running} at once\n"
        f"slots: fewest/most {min(used) / max(used):.2f}, Jain {jain:.3f}\n"
        f"MB a coordinator: own {own}, share {share}\n"
        f"CPU of coordinators: {cpu_ms:.1f} ms a trial, their start included\n"
        f"database a second: {load[0]:.0f} transactions, {load[1]:.0f} rows read, "
        f"{load[2]:.0f} rows written"
    )


def main() -> None:
    """Start everything, run, end everything."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--jobs", type=int, default=100)
    parser.add_argument("--capacity", type=int, default=12)
    parser.add_argument("--trials", type=int, default=24)
    parser.add_argument("--block-s", type=float, default=0.05)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name, running() as server:
        folder = Path(name)
        models = write_models(folder / "models")
        (folder / "spool").mkdir()
        places = (server.database(), models, folder / "spool")
        stage = Stage(folder, server, *places, seed=1, capacity=asked.capacity)
        stage.capacity = asked.capacity
        try:
            queue_jobs(stage, asked)
            stage.start_replica()
            run(stage, asked)
        finally:
            stage.close()


if __name__ == "__main__":
    main()
