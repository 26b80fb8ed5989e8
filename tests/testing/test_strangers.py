"""The contracts hold what evomerge does not know: the classes of this file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.work import WorkerSetup
from evomerge.scoring.engine import Engine
from evomerge.scoring.evaluator import Evaluator
from evomerge.scoring.hf.engine import HfEngine
from evomerge.store.base import Store
from evomerge.store.sql import open_store
from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Strategy, Told, scope
from evomerge.testing.engine_contract import SwapContract
from evomerge.testing.pool_contract import MakePool, PoolContract
from evomerge.testing.stack_contract import StackSwapContract
from evomerge.testing.store_contract import StoreContract
from evomerge.testing.store_samples import Opened
from evomerge.testing.strategy_contract import StrategyContract


class NearTheBest(GuardedStrategy):
    """Half of a generation is drawn anew, half is the best known, moved in ``x``."""

    _best: Told | None = None

    def _propose(self, generation: int) -> Proposal:
        points = []
        for index in range(self._size):
            rng = scope(self._seed, generation, index)
            point = dict(self._space.random(rng))
            if self._best is not None and index % 2:
                x = next(axis for axis in self._space.axes if axis.name == "x")
                point = {**self._best.point, "x": x.value(rng.random())}
            points.append(point)
        return Proposal(tuple(points))

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        scored = [r for r in (self._best, *results) if r is not None and r.losses]
        self._best = min(scored, key=lambda r: r.losses or (), default=None)


class TestNearTheBest(StrategyContract):
    def make(self, seed: int) -> Strategy:
        setup = StrategySetup(self.space, 6, seed, is_fold=True, n_constraints=1)
        return NearTheBest(setup)


class Wrapper:
    """Passes on what it is asked."""

    def __init__(self, inner: Any) -> None:
        self._inner = inner

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class TestWrappedStore(StoreContract):
    @pytest.fixture
    def make_store(self, tmp_path: Path) -> Opened:
        def make() -> Store:
            return Wrapper(open_store(f"sqlite:///{tmp_path}/studies.db"))

        return make


class TestWrappedPool(PoolContract):
    @pytest.fixture
    def make_pool(self) -> MakePool:
        return lambda setup: Wrapper(InProcessPool(lambda: Evaluator(setup)))


class NamedEngine(Wrapper):
    """An engine of a kind that no study file may name."""

    @property
    def facts(self) -> Mapping[str, Any]:
        return {**self._inner.facts, "kind": "named"}


def named_engine(setup: WorkerSetup) -> Engine:
    return NamedEngine(HfEngine(setup))


@pytest.mark.timeout(300)
class TestNamedEngine(SwapContract):
    kind = "named"
    open_engine = staticmethod(named_engine)


@pytest.mark.slow
class TestStacksOfANamedEngine(StackSwapContract):
    kind = "named"
    open_engine = staticmethod(named_engine)
