"""What a trial costs the coordinator, as a study grows, on both databases.

    PYTHONPATH=tests python benchmarks/store.py [--trials 10000] [--layers 24]

A study is run by the real coordinator and store; workers answer at once with made-up
outcomes, 8 blocks a trial. CPU time of the coordinator's process is counted without
the workers' part and without the strategy's ask and tell, over the last hundred trials
before each size. Then: bytes of the database per trial, and the time from the start of
a resume to the first assignment. PostgreSQL is a server of its own, started here, or
the one EVOMERGE_TEST_PG_URL names.
"""

from __future__ import annotations

import argparse
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psycopg
from strategies import N_AXES, measure
from support.postgres import GIVEN, make_database, running

from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.scoring_protocol import (
    Item,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.space import FloatAxis, SearchSpace
from evomerge.core.study import Budget, StrategySettings
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
from evomerge.search import study_run
from evomerge.search.coordinator import Coordinator
from evomerge.search.plan import Plan
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.strategies.base import Proposal, Strategy
from evomerge.strategies.ranks import told
from evomerge.strategies.registry import make_strategy
from evomerge.testing.search import accuracy

TASKS = ("a", "b", "c", "d")
BLOCKS = 2
BLOCK_ITEMS = 40
WINDOW = 100
SIZE = 8
"""Candidates in a generation."""
SPACE = SearchSpace(tuple(FloatAxis(f"w{i}", -1.0, 1.0) for i in range(N_AXES)))


class EnoughError(Exception):
    """What was to be timed has happened."""


@dataclass(frozen=True)
class Blend:
    """Two parents of many layers, each layer with a weight of its own."""

    layers: int

    def recipe(self, point: Point) -> Recipe:
        """Return the blend."""
        slots = tuple(
            Slot(_roles(float(point[f"w{i % N_AXES}"])), layers=(("a", i), ("b", i)))
            for i in range(self.layers)
        )
        whole = Slot(_roles(0.5))
        inputs = (("a", Checkpoint("fa")), ("b", Checkpoint("fb")))
        return Recipe("a", "bfloat16", inputs, whole, slots, whole)


def _roles(weight: float) -> tuple[tuple[str, Operation], ...]:
    blend = Operation(
        "linear",
        ("a", "b"),
        shared=(("normalize", False),),
        each=(("weight", (weight, 1 - weight)),),
    )
    return (("*", blend),)


def describe(name: str) -> TaskDescription:
    """Describe a task of two blocks."""
    items = tuple(
        Item(f"{name}{i:063d}", ItemRole.SEARCH, i // BLOCK_ITEMS)
        for i in range(BLOCKS * BLOCK_ITEMS)
    )
    return TaskDescription(Manifest(name, items), ScoringProtocol(name, {}), ("acc",))


class Timer:
    """CPU seconds of this process, and those that do not count."""

    def __init__(self) -> None:
        self.others = 0.0

    def now(self) -> float:
        """Return the seconds that count."""
        return time.process_time() - self.others

    @contextmanager
    def apart(self) -> Iterator[None]:
        """Do not count what happens inside."""
        began = time.process_time()
        try:
            yield
        finally:
            self.others += time.process_time() - began


class InstantPool:
    """Workers that answer at once."""

    def __init__(self, timer: Timer, n_workers: int = 4) -> None:
        self._timer = timer
        self._free = [f"w{i}" for i in range(n_workers)]
        self._events: deque[PoolEvent] = deque()
        self._tasks = tuple(describe(name) for name in TASKS)
        self.finished: Callable[[int], None] = lambda n: None
        self.began: Callable[[], None] = lambda: None
        self._n = 0

    def start(self) -> None:
        """Bring every worker up."""
        for name in self._free:
            self._events.append(WorkerReady(name, self._tasks, {}))

    def free(self) -> Sequence[str]:
        """Return idle workers."""
        return tuple(self._free)

    def workers(self) -> Sequence[str]:
        """Return all workers."""
        return tuple(self._free)

    def roster(self) -> Roster:
        """Return how many there are, and are to be."""
        return Roster(len(self._free), len(self._free))

    def heed(self, wishes: Wishes) -> None:
        """Let nothing change; nobody wishes anything."""

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Answer at once."""
        self.began()
        with self._timer.apart():
            place = (worker, assignment.trial, assignment.attempt)
            for block in assignment.blocks:
                task = self._tasks[TASKS.index(block.task)]
                outcomes = tuple(
                    Outcome(
                        item, {"acc": float((i * 7 + assignment.trial) % 3 == 0)}, 9
                    )
                    for i, item in enumerate(task.manifest.ids(block))
                )
                self._events.append(BlockScored(*place, block, outcomes, 0.1))
            self._events.append(AttemptDone(*place, {"score": 0.8}))

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Hand out one answer."""
        with self._timer.apart():
            if not self._events:
                return ()
            event = self._events.popleft()
            if isinstance(event, AttemptDone):
                self._n += 1
                self.finished(self._n)
            return (event,)

    def cancel(self, worker: str) -> None:
        """Nothing runs long enough."""

    def close(self) -> None:
        """Nothing to close."""


class Apart:
    """A strategy whose thinking is not counted."""

    def __init__(self, inner: Strategy, timer: Timer) -> None:
        self._inner = inner
        self._timer = timer
        self.is_fold = inner.is_fold
        self.generation_size = inner.generation_size

    def ask(self, generation: int) -> Proposal:
        """Ask."""
        with self._timer.apart():
            return self._inner.ask(generation)

    def tell(self, *arguments: object) -> None:
        """Tell."""
        with self._timer.apart():
            self._inner.tell(*arguments)  # type: ignore[arg-type]


def plan(kind: str, n_trials: int, layers: int) -> Plan:
    """Return a study of one objective over four tasks (two objectives for NSGA-II)."""
    objectives = [accuracy("a")] if kind != "nsga2" else [accuracy("a"), accuracy("b")]
    return Plan(
        name=kind,
        seed=1,
        space=SPACE,
        blueprint=Blend(layers),
        objectives=tuple(objectives),
        constraints=(),
        strategy=StrategySettings(kind, SIZE),
        starts=(),
        budget=Budget(trials=n_trials),
        timeout_s=600,
    )


def cost(url: str, sizes: Sequence[int], layers: int) -> dict[int, float]:
    """Run a study; CPU seconds per trial over the last trials before each size."""
    timer = Timer()
    study_run.make_strategy = lambda *a, **k: Apart(make_strategy(*a, **k), timer)
    pool = InstantPool(timer)
    marks: dict[int, float] = {}
    wanted = {edge for size in sizes for edge in (size - WINDOW + 1, size)}

    def finished(n: int) -> None:
        if n in wanted:
            marks[n] = timer.now()

    pool.finished = finished
    search(url, plan("cma", max(sizes), layers), pool)
    study_run.make_strategy = make_strategy
    return {s: (marks[s] - marks[s - WINDOW + 1]) / (WINDOW - 1) for s in sizes}


def search(url: str, study: Plan, pool: InstantPool) -> None:
    """Run or resume a study to the end."""
    store = open_store(url)
    if study.name not in [known.name for known in store.studies()]:
        store.create_study(study.name, {}, {}, study.seed)
    Coordinator(study, store, pool, this_process()).run()
    store.close()


def resume(url: str, study: Plan) -> float:
    """Wall seconds from the start of a resume to the first assignment."""
    pool = InstantPool(Timer())

    def enough() -> None:
        raise EnoughError

    pool.began = enough
    began = time.perf_counter()
    try:
        search(url, study, pool)
    except EnoughError:
        return time.perf_counter() - began
    raise RuntimeError("the resumed study had nothing to do")


def write_history(url: str, kind: str, n_trials: int) -> Plan:
    """Write a long study of a strategy that is a function of the rows.

    On resume it is handed every generation and asked only the last one, so any points
    will do before that; the last generation is its own.
    """
    study = plan(kind, n_trials + SIZE, 1)
    store = open_store(url)
    known = store.create_study(kind, {}, {}, study.seed)
    lease = store.lease(known.id, this_process(), 3600)
    store.record_tasks(lease, [describe(name) for name in TASKS])
    store.add_generation(lease, 0, (), {}, None)
    strategy = make_strategy(
        study.strategy,
        study.space,
        n_objectives=len(study.objectives),
        n_constraints=0,
        seed=study.seed,
    )
    rng = np.random.default_rng(0)
    last = n_trials // SIZE + 1
    for number in range(1, last):
        points = tuple(SPACE.random(rng) for _ in range(SIZE))
        scores = [{"a/acc": rng.random(), "b/acc": rng.random()} for _ in points]
        new = store.add_generation(
            lease, number, study.candidates(number, points), {}, None
        )
        for trial, found in zip(new, scores, strict=True):
            store.reuse(lease, trial.number, found)
        results = [
            told(point, study.objectives, (), found, {})
            for point, found in zip(points, scores, strict=True)
        ]
        strategy.tell(number, Proposal(points), results)
    own = strategy.ask(last)
    candidates = study.candidates(last, own.points)
    store.add_generation(lease, last, candidates, own.memory, own.note)
    store.release(lease)
    store.close()
    return study


def bytes_of(url: str) -> int:
    """Return the size of a database on disk."""
    if url.startswith("sqlite"):
        path = url.removeprefix("sqlite:///")
        return sum(p.stat().st_size for p in Path(path).parent.glob("*.db*"))
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM")
        row = connection.execute("SELECT pg_database_size(current_database())")
        found = row.fetchone()
    return int(found[0]) if found else 0


@contextmanager
def databases() -> Iterator[list[tuple[str, str]]]:
    """Give a database of each kind."""
    with tempfile.TemporaryDirectory() as folder:
        sqlite = ("SQLite", f"sqlite:///{folder}/x.db")
        if (given := os.environ.get(GIVEN)) is not None:
            yield [sqlite, ("PostgreSQL", make_database(given))]
            return
        with running() as server:
            yield [sqlite, ("PostgreSQL", server.database())]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--trials", type=int, default=10_000)
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--no-ask", action="store_true", help="skip the asks")
    given = parser.parse_args()
    sizes = [n for n in (100, 1000, 10_000) if n <= given.trials] or [given.trials]
    blocks = len(TASKS) * BLOCKS
    print(
        f"{blocks} blocks of {BLOCK_ITEMS} items a trial, recipes of {given.layers} "
        "layers; CPU ms per trial without ask and tell\n"
    )
    header = "".join(f"{f'at {size}':>12}" for size in sizes)
    print(f"{'database':12}{header}{'KB a trial':>12}{'wall s':>10}")
    with databases() as places:
        for name, url in places:
            empty = bytes_of(url)
            began = time.perf_counter()
            found = cost(url, sizes, given.layers)
            wall = time.perf_counter() - began
            row = "".join(f"{1000 * found[size]:12.2f}" for size in sizes)
            size = (bytes_of(url) - empty) / max(sizes) / 1024
            print(f"{name:12}{row}{size:12.1f}{wall:10.0f}", flush=True)
        print(f"\nresume of {max(sizes)} trials: seconds to the first assignment\n")
        print(f"{'database':12}{'cma':>10}{'tpe':>10}")
        for name, url in places:
            n = max(sizes)
            times = [resume(url, plan("cma", n + SIZE, given.layers))]
            times.append(resume(url, write_history(url, "tpe", n)))
            row = "".join(f"{seconds:10.2f}" for seconds in times)
            print(f"{name:12}{row}", flush=True)
    if given.no_ask:
        return
    print("\nask and tell beside it, ms per candidate\n")
    print(f"{'strategy':12}{header}")
    for kind, n_objectives in (("cma", 1), ("random", 1), ("tpe", 1), ("nsga2", 2)):
        row = "".join(f"{1000 * measure(kind, n_objectives, n):12.2f}" for n in sizes)
        print(f"{kind:12}{row}", flush=True)


if __name__ == "__main__":
    main()
