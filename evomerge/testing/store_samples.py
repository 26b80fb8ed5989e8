"""A small study, its tasks and trials, to try stores with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from evomerge.core.digest import Scalar
from evomerge.core.recipes.recipe import Checkpoint, Operation, Recipe, Slot
from evomerge.core.scoring_protocol import (
    BlockKey,
    Item,
    ItemRole,
    Manifest,
    Outcome,
    ScoringProtocol,
    TaskDescription,
)
from evomerge.core.trial import Blame, Candidate, Cause, Failure, Trial, TrialState
from evomerge.store.base import Ending, Lease, Owner, Store
from evomerge.store.owner import this_process

Opened = Callable[[], Store]
"""Opens the same database once more."""

CONFIG = {"space": {"w": [0.1, 0.30000000000000004]}, "tasks": ["t"], "names": "数学"}
LOST = Failure(Cause.WORKER_LOST, Blame.MACHINE, "node n1 went away")
BROKEN = Failure(Cause.NON_FINITE, Blame.CANDIDATE, "NaN in slot 3")
ELSEWHERE = Owner("another-host", 1, "1")
TASK = "t"
N_BLOCKS = 3
BLOCK_SIZE = 4


def a_recipe(weight: float) -> Recipe:
    """Make a small merge of two parents; equal weights give equal recipes."""
    blend = Operation("linear", ("a", "b"), each=(("weight", (weight, 1 - weight)),))
    whole = Slot((("*", blend),))
    layer = Slot((("*", blend),), (("a", 0), ("b", 0)))
    parents = (("a", Checkpoint("f-a")), ("b", Checkpoint("f-b")))
    return Recipe("a", "float32", parents, whole, (layer,), whole)


def candidates(generation: int, n: int, start: int = 0) -> list[Candidate]:
    """Make candidates with exact, awkward floats; no two recipes are equal."""
    made = []
    for index in range(start, start + n):
        weight = (generation * 100 + index + 1) / 997 + 0.1
        point: dict[str, Scalar] = {
            "w": weight,
            "method": "linear",
            "n": index,
            "on": True,
        }
        made.append(Candidate(generation, index, a_recipe(weight), point))
    return made


def task(name: str = TASK, settings: object = 1) -> TaskDescription:
    """Describe a task with some search blocks and one report block."""
    search = [
        Item(f"{name}-{i}", ItemRole.SEARCH, i // BLOCK_SIZE)
        for i in range(N_BLOCKS * BLOCK_SIZE)
    ]
    report = [Item(f"{name}-r{i}", ItemRole.REPORT, 0) for i in range(BLOCK_SIZE)]
    manifest = Manifest(name, (*search, *report))
    protocol = ScoringProtocol(name, {"way": settings, "of": name})
    return TaskDescription(manifest, protocol, ("acc",))


def answers(block: BlockKey, value: float = 1.0) -> list[Outcome]:
    """Make one outcome per item of a block."""
    items = task(block.task).manifest.ids(block)
    return [Outcome(item, {"acc": value}, 7, item.endswith("1")) for item in items]


def search_block(index: int) -> BlockKey:
    """Name a block that is searched on."""
    return BlockKey(TASK, ItemRole.SEARCH, index)


def scored(value: float = 0.1 + 0.2) -> Ending:
    """Make a good ending."""
    return Ending(TrialState.SCORED, {"t/acc": value}, None, {"score": 1.5})


class StoreFixtures:
    """What contract tests start from; a subclass gives ``make_store``.

    A test that opens the store again reads what went through the database.
    """

    @pytest.fixture
    def make_store(self) -> Opened:
        """Return a function that opens one fresh database once more; override this."""
        raise NotImplementedError

    @pytest.fixture
    def opened(self, make_store: Opened) -> Iterator[Opened]:
        """Open the database any number of times; all are closed at the end."""
        stores: list[Store] = []

        def open_one() -> Store:
            stores.append(make_store())
            return stores[-1]

        yield open_one
        for store in stores:
            store.close()

    @pytest.fixture
    def store(self, opened: Opened) -> Store:
        """Give an open store."""
        return opened()

    @pytest.fixture
    def lease(self, store: Store) -> Lease:
        """Give a study with recorded tasks, and the right to write it."""
        study = store.create_study("s", CONFIG, {"trials": 10}, seed=3)
        lease = store.lease(study.id, this_process(), 60)
        store.record_tasks(lease, [task()])
        return lease

    @pytest.fixture
    def trials(self, store: Store, lease: Lease) -> Sequence[Trial]:
        """Give a recorded generation 0 of one, and generation 1 of four trials."""
        baseline = Candidate(0, 0, a_recipe(1.0), None, "parent a")
        store.add_generation(lease, 0, [baseline], {}, None)
        return store.add_generation(lease, 1, candidates(1, 4), {"m": 1}, "restart")
