"""How long workers have nothing to do, with whole trials and with trials shared out.

    PYTHONPATH=tests python benchmarks/idle_share.py [--workers 16 1000] [...]

Studies are run by the real coordinator, strategy (CMA-ES) and store; the workers are
pretended, in virtual time: when all are at something, the clock jumps to the next one
that is done. With ``--count-cpu`` the processor time of this process passes in it, too,
so workers wait for their coordinator as they would. A trial takes 100 s on average, or
``--trial-s``, 32 blocks alike, and 5 s more for every swap. Idle is the share of all
workers' time in which they neither swap nor score, from the first candidate on; useful
is the share in which they score or swap a trial in for the first time. The target is a
value of the sphere; both ways find it at the same trial
and differ in the time until then. CPU is that of the process a trial, over all of them,
the first and the last tenth. PostgreSQL is a server of its own, started here, or
the one EVOMERGE_TEST_PG_URL names.
"""

from __future__ import annotations

import argparse
import heapq
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from store import Blend, databases

from evomerge.core.recipes.recipe import Recipe
from evomerge.core.scoring_protocol import (
    Item,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.space import FloatAxis, SearchSpace
from evomerge.core.study import Budget, Direction, Measure, Objective, StrategySettings
from evomerge.core.trial import Point
from evomerge.core.work import (
    Assignment,
    AttemptDone,
    BlockScored,
    PoolEvent,
    Roster,
    Wishes,
    WorkerReady,
)
from evomerge.search.coordinator import Coordinator
from evomerge.search.dispatcher import Dispatcher
from evomerge.search.plan import Plan
from evomerge.search.scoreboard import Progress
from evomerge.specs.resolved import Baseline
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store

N_AXES = 12
SPACE = SearchSpace(tuple(FloatAxis(f"w{i}", -1.0, 1.0) for i in range(N_AXES)))
BLOCKS, BLOCK_ITEMS = 32, 10
SWAP_S = 5.0
N_STARTS = 2
TARGET = 1e-2
ITEMS = Manifest(
    "t",
    tuple(
        Item(f"{i:064d}", ItemRole.SEARCH, i // BLOCK_ITEMS)
        for i in range(BLOCKS * BLOCK_ITEMS)
    ),
)

Times = Callable[[np.random.Generator], float]
TIMES: dict[str, Times] = {
    "uniform 1x-5x": lambda rng: float(rng.uniform(1, 5)) / 3,
    "log-normal 0.5": lambda rng: float(np.exp(0.5 * rng.standard_normal() - 0.125)),
}


class Sphere:
    """Points to recipes; remembers the value of each."""

    def __init__(self) -> None:
        self._blend = Blend(2)
        self.values: dict[str, float] = {}

    def recipe(self, point: Point) -> Recipe:
        """Return a recipe for the point."""
        plain = {name: float(value) for name, value in point.items()}
        made = self._blend.recipe({f"w{i}": plain[f"w{i}"] for i in range(N_AXES)})
        value = sum((x - 0.3) ** 2 for x in plain.values())
        self.values[made.digest] = value
        return made


@dataclass
class Account:
    """What the workers' time went into, in virtual seconds."""

    began: float = 0.0
    busy: float = 0.0
    extra: float = 0.0
    target_at: float | None = None


@dataclass(frozen=True)
class Case:
    """What is to be measured."""

    times: str
    n_workers: int
    size: int
    n_trials: int
    trial_s: float
    counts_cpu: bool


class PretendedPool:
    """Workers in virtual time."""

    def __init__(self, name: str, case: Case, sphere: Sphere) -> None:
        # Named by the study, so that none reuses the outcomes of another.
        protocol = ScoringProtocol("t", {"study": name})
        self._task = TaskDescription(ITEMS, protocol, ("loss",))
        self.now = 0.0
        self.account = Account()
        self._case = case
        self._left_at: float | None = None  # in processor time, since the last poll
        self._sphere = sphere
        self._free = dict.fromkeys(f"w{i}" for i in range(case.n_workers))
        self._names = tuple(self._free)
        self._due: list[tuple[float, int, list[PoolEvent]]] = []
        self._n_sent = 0
        self._at: dict[str, int] = {}
        self._swapped: set[int] = set()
        self._left: dict[int, int] = {}

    def start(self) -> None:
        """Bring every worker up."""
        ready: list[PoolEvent] = [
            WorkerReady(n, (self._task,), {}) for n in self._names
        ]
        heapq.heappush(self._due, (0.0, -1, ready))

    def free(self) -> Sequence[str]:
        """Return idle workers."""
        return tuple(self._free)

    def clock(self) -> float:
        """Return the time, in virtual seconds."""
        return self.now + self._spent_s

    @property
    def _spent_s(self) -> float:
        if self._left_at is None or not self._case.counts_cpu:
            return 0.0
        return time.process_time() - self._left_at

    def workers(self) -> Sequence[str]:
        """Return all workers."""
        return self._names

    def roster(self) -> Roster:
        """Return that nobody is missing."""
        return Roster(wanted=len(self._names), up=len(self._names))

    def heed(self, wishes: Wishes) -> None:
        """Let nothing change; nobody wishes anything."""

    def submit(self, worker: str, work: Assignment) -> None:
        """Work on an assignment, from now on."""
        del self._free[worker]
        self._n_sent += 1
        swap_s = 0.0 if self._at.get(worker) == work.trial else SWAP_S
        self._at[worker] = work.trial
        drawn = TIMES[self._case.times](np.random.default_rng(work.trial))
        pace = drawn * self._case.trial_s / BLOCKS
        seconds = swap_s + pace * len(work.blocks)
        self._count(work, seconds, swap_s)
        place = (worker, work.trial, work.attempt)
        value = self._sphere.values[work.recipe.digest]
        events: list[PoolEvent] = [
            BlockScored(*place, block, answers(block.index, value), pace)
            for block in work.blocks
        ]
        spent = {"swap": swap_s, "score": seconds - swap_s}
        events.append(AttemptDone(*place, spent))
        heapq.heappush(self._due, (self.clock() + seconds, self._n_sent, events))

    def _count(self, work: Assignment, seconds: float, swap_s: float) -> None:
        if work.trial < N_STARTS:
            return
        account = self.account
        if not account.busy:
            account.began = self.clock()
        account.busy += seconds
        if swap_s and work.trial in self._swapped:
            account.extra += swap_s
        self._swapped.add(work.trial)
        self._left[work.trial] = self._left.get(work.trial, BLOCKS) - len(work.blocks)

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Let time go on until somebody is done."""
        if not self._due:
            return ()
        due, _, events = heapq.heappop(self._due)
        self.now = max(due, self.clock())
        self._left_at = time.process_time()
        done = events[-1]
        if isinstance(done, AttemptDone):
            self._free[done.worker] = None
            self._look(done.trial, events)
        return events

    def _look(self, trial: int, events: Sequence[PoolEvent]) -> None:
        first = events[0]
        assert isinstance(first, BlockScored)
        value = first.outcomes[0].metrics["loss"]
        is_hit = trial >= N_STARTS and value <= TARGET
        if is_hit and not self._left[trial] and self.account.target_at is None:
            self.account.target_at = self.now

    def cancel(self, worker: str) -> None:
        """Nothing runs too long."""
        raise AssertionError(worker)

    def close(self) -> None:
        """Nothing to close."""


def answers(index: int, value: float) -> tuple[Outcome, ...]:
    """Return the outcomes of a block."""
    first = index * BLOCK_ITEMS
    return tuple(
        Outcome(f"{i:064d}", {"loss": value}) for i in range(first, first + BLOCK_ITEMS)
    )


@dataclass(frozen=True)
class Row:
    """One study."""

    database: str
    times: str
    workers: int
    generation: int
    trials: int
    shared: bool
    idle: float
    useful: float
    hours: float
    hours_to_target: float | None
    cpu_ms_a_trial: float
    cpu_ms_first: float
    cpu_ms_last: float
    told: str


def study(store: Store, name: str, size: int, n_trials: int) -> tuple[Plan, Sphere]:
    """Record a study of the sphere."""
    sphere = Sphere()
    goal = Objective("loss", Direction.MINIMIZE, (Measure("t", "loss"),), (1.0,))
    starts = tuple(
        Baseline(f"start {i}", sphere.recipe({f"w{k}": 0.1 * i for k in range(N_AXES)}))
        for i in range(N_STARTS)
    )
    store.create_study(name, {}, {}, 1)
    plan = Plan(
        name=name,
        seed=1,
        space=SPACE,
        blueprint=sphere,
        objectives=(goal,),
        constraints=(),
        strategy=StrategySettings("cma", size),
        starts=starts,
        budget=Budget(trials=n_trials),
        timeout_s=1e9,
    )
    return plan, sphere


def run(url: str, database: str, case: Case, shared: bool) -> Row:
    """Run one study to the end of its budget."""
    times, n_workers, size = case.times, case.n_workers, case.size
    n_trials = case.n_trials
    store = open_store(url)
    name = f"{times} {n_workers} {size} {shared}"
    plan, sphere = study(store, name, size, n_trials)
    plan = replace(plan, shares_trials=shared)
    pool = PretendedPool(name, case, sphere)
    began = time.process_time()
    spent = [0.0] * (n_trials + 1)  # CPU seconds when so many trials were done

    def watch(progress: Progress) -> None:
        spent[progress.done] = time.process_time() - began

    coordinator = Coordinator(plan, store, pool, this_process(), watch)
    coordinator._dispatcher = Dispatcher(pool, pool.clock)
    coordinator.run()
    cpu = time.process_time() - began
    tenth = max(1, n_trials // 10)
    known_to = [max(spent[: n + 1]) for n in (tenth, n_trials - tenth)]
    account = pool.account
    makespan = pool.now - account.began
    known = store.study(name).id
    told = [t.scores for t in store.history(known)]
    store.close()
    target = account.target_at
    return Row(
        database=database,
        times=times,
        workers=n_workers,
        generation=size,
        trials=n_trials,
        shared=shared,
        idle=1 - account.busy / (n_workers * makespan),
        useful=(account.busy - account.extra) / (n_workers * makespan),
        hours=makespan / 3600,
        hours_to_target=None if target is None else (target - account.began) / 3600,
        cpu_ms_a_trial=1000 * cpu / n_trials,
        cpu_ms_first=1000 * known_to[0] / tenth,
        cpu_ms_last=1000 * (cpu - known_to[1]) / tenth,
        told=repr(hash(repr(told))),
    )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workers", type=int, nargs="+", default=[16, 1000])
    parser.add_argument("--trials", type=int, help="each study; by default fitting")
    parser.add_argument("--times", choices=[*TIMES], nargs="+", default=[*TIMES])
    parser.add_argument("--factors", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--trial-s", type=float, default=100.0)
    parser.add_argument("--count-cpu", action="store_true")
    parser.add_argument("--database", choices=["SQLite", "PostgreSQL"])
    parser.add_argument("--only-shared", action="store_true", help="half the time")
    parser.add_argument("--json", type=Path, help="write the rows here, too")
    given = parser.parse_args()
    rows = []
    print(
        f"{'database':11}{'times':16}{'workers':>8}{'gen.':>6}{'trials':>7}  "
        f"{'way':7}{'idle':>7}{'useful':>8}{'hours':>8}{'target':>8}{'CPU ms':>8}"
        f"{'first':>8}{'last':>8}"
    )
    with databases() as places:
        for name, url in places:
            if given.database not in (None, name):
                continue
            for case in cases(given):
                ways = (True,) if given.only_shared else (False, True)
                pair = [run(url, name, case, shared) for shared in ways]
                if len({row.told for row in pair}) > 1:
                    raise RuntimeError(f"what was told differs: {pair}")
                rows += pair
                for row in pair:
                    print(line(row), flush=True)
    if given.json:
        given.json.write_text(json.dumps([asdict(row) for row in rows]))


def cases(given: argparse.Namespace) -> list[Case]:
    """Return times, workers, size of a generation and trials of each study."""
    found = []
    for n_workers in given.workers:
        for times in given.times:
            for factor in given.factors:
                size = factor * n_workers
                n_trials = given.trials or max(480, size)
                how = (given.trial_s, given.count_cpu)
                found.append(Case(times, n_workers, size, n_trials, *how))
    return found


def line(row: Row) -> str:
    """Write a row of the table."""
    target = "" if row.hours_to_target is None else f"{row.hours_to_target:.2f}"
    way = "shared" if row.shared else "whole"
    return (
        f"{row.database:11}{row.times:16}{row.workers:8}{row.generation:6}"
        f"{row.trials:7}  {way:7}{row.idle:7.1%}{row.useful:8.1%}{row.hours:8.2f}"
        f"{target:>8}{row.cpu_ms_a_trial:8.1f}"
        f"{row.cpu_ms_first:8.1f}{row.cpu_ms_last:8.1f}"
    )


if __name__ == "__main__":
    main()
