"""A study in a process that ends itself at a given step, to be taken up by the next.

A script counts the steps that matter to it (events of the pool, statements of the
database) by calling ``Doom.step``, and runs ``live``. What the store promised to keep
is written down as it goes, so that whoever comes after can ask for it.
"""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.space import FloatAxis, SearchSpace
from evomerge.core.study import Budget, Constraint, Sampling, StrategySettings
from evomerge.core.work import Assignment, PoolEvent, Roster, Wishes
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.search.plan import Plan
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, accuracy

UNREACHABLE = 3
"""Exit code of a life whose database did not answer, and that said so."""

_COARSE = SearchSpace(
    tuple(FloatAxis(name, 0.0, 1.0, grid=0.25) for name in ("a", "b"))
)
"""So coarse that recipes come up again, and outcomes are reused."""

_FAULTS = {"fail_if": 0.12, "break_if": 0.15, "error_if": 0.08, "fault_block": 1}


@dataclass(frozen=True, slots=True)
class Life:
    """One process of a study; steps count from 1, and 0 means never.

    Attributes:
        url: Of the database.
        folder: For the cache and for what was promised.
        trials: The budget.
        workers: How many take turns.
        salt: Of the order in which they do.
        kill_at: Step at which the process dies.
        late_s: It dies so many seconds after that step, wherever it is then.
        stop_at: Step at which it stops, until somebody lets it go on.
        is_sampled: Generations answer some of the items, and finals follow.
    """

    url: str
    folder: str
    strategy: str
    trials: int
    workers: int = 1
    salt: int = 0
    kill_at: int = 0
    late_s: float = 0.0
    stop_at: int = 0
    is_sampled: bool = False

    def setting(self) -> SmallStudy:
        """Return the study: some candidates fail, some spoil every machine."""
        return SmallStudy(
            StrategySettings(self.strategy, 5),
            Budget(trials=self.trials),
            options=_FAULTS,
            objectives=("x", "y") if self.strategy == "nsga2" else ("x",),
            blocks=4 if self.is_sampled else 2,
            sampling=Sampling(0.5, finalists=3) if self.is_sampled else None,
        )

    def plan(self) -> Plan:
        """Return what the coordinator is to do."""
        plan = replace(self.setting().plan(), space=_COARSE)
        if self.strategy == "cma":  # it takes no constraints
            return plan
        return replace(plan, constraints=(Constraint(accuracy("y"), 0.2, "parent a"),))


def promised(folder: str) -> Path:
    """Return the file of what the store promised to keep, a JSON list a line."""
    return Path(folder) / "promised"


class Doom:
    """Counts steps, and ends its own process at one of them."""

    def __init__(self, life: Life) -> None:
        self._life = life
        self._n_steps = 0

    def step(self, *_: object) -> None:
        """Count; stop or die, if it is time."""
        self._n_steps += 1
        if self._n_steps == self._life.stop_at:
            os.kill(os.getpid(), signal.SIGSTOP)
        if self._n_steps == self._life.kill_at:
            if not self._life.late_s:
                os.kill(os.getpid(), signal.SIGKILL)
            # Nobody handles the alarm, so it kills, in the middle of anything.
            signal.setitimer(signal.ITIMER_REAL, self._life.late_s)


class Crowd:
    """Several workers inside this process, which take turns by chance."""

    def __init__(self, life: Life, doom: Doom) -> None:
        setup = life.setting().setup(Path(life.folder))
        names = [f"w{number}" for number in range(life.workers)]
        self._pools = {n: InProcessPool(lambda: Evaluator(setup), n) for n in names}
        self._luck = np.random.default_rng(life.salt)
        self._doom = doom

    def start(self) -> None:
        """Bring every worker up at its next turn."""
        for pool in self._pools.values():
            pool.start()

    def free(self) -> Sequence[str]:
        """Return who is up and idle."""
        return [name for pool in self._pools.values() for name in pool.free()]

    def workers(self) -> Sequence[str]:
        """Return who is up."""
        return [name for pool in self._pools.values() for name in pool.workers()]

    def roster(self) -> Roster:
        """Return how many there are, and are to be."""
        return Roster(len(self._pools), len(self.workers()))

    def heed(self, wishes: Wishes) -> None:
        """Let nothing change; nobody wishes anything."""

    def submit(self, worker: str, assignment: Assignment) -> None:
        """Hand work to one of them."""
        self._pools[worker].submit(worker, assignment)

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        """Let one of those that have something to do go on."""
        for name in self._luck.permutation(list(self._pools)):
            if events := self._pools[name].poll(timeout_s):
                self._doom.step()
                return events
        return ()

    def cancel(self, worker: str) -> None:
        """Drop an assignment."""
        self._pools[worker].cancel(worker)

    def close(self) -> None:
        """Close every worker."""
        for pool in self._pools.values():
            pool.close()


class Promising:
    """Passes every call on, and writes down what the store promised by returning."""

    def __init__(self, store: Store, file: Path) -> None:
        self._store = store
        self._file = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._store, name)

        def call(*arguments: Any) -> Any:
            answer = method(*arguments)
            for promise in _promises(name, arguments, answer):
                os.write(self._file, json.dumps(promise).encode() + b"\n")
            return answer

        return call


def _promises(name: str, arguments: Sequence[Any], answer: Any) -> Iterator[list[Any]]:
    if name in ("add_generation", "extend_generation"):
        yield ["trials", max((t.number for t in answer), default=-1)]
    if name == "start_attempt":
        yield ["attempt", arguments[1], answer]
    if name == "record":
        for block, outcomes in arguments[3].blocks.items():
            items = [outcome.item for outcome in outcomes]
            yield ["outcomes", arguments[1], block.task, items]
    if name == "end_attempt" and arguments[3].state.is_final:
        yield ["end", arguments[1], arguments[3].state]
    if name == "reuse":
        yield ["end", arguments[1], "scored"]


def live(life: Life, doom: Doom) -> None:
    """Create the study or take it up, and search until the budget is used.

    Raises:
        EvomergeError: The database could not be used.
    """
    store = open_store(life.url)
    plan = life.plan()
    if not store.studies():
        config = life.setting().config
        store.create_study(plan.name, config, {}, plan.seed)
    promising = Promising(store, promised(life.folder))
    Coordinator(plan, promising, Crowd(life, doom), this_process()).run()
    store.close()
