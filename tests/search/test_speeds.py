"""The speed of a candidate: timed over all of its blocks, recorded, never redone."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from support.shaky import ShakyStore

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.cost import SPEED_MEASURE
from evomerge.core.measures import ModelFacts
from evomerge.core.meter import Meter
from evomerge.core.recipes.recipe import Input
from evomerge.core.study import Budget, Direction, Measure, Objective
from evomerge.core.trial import TrialState
from evomerge.core.work import BlockScored, PoolEvent
from evomerge.errors import StoreUnreachableError
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator, Patience
from evomerge.search.plan import Plan
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy

TOKENS, ITEMS = 7, 10
"""Of every answer, and searched on in each of the two tasks."""
SMALL = SmallStudy(budget=Budget(trials=6), options={"tokens": TOKENS})


class Listening(InProcessPool):
    """Remembers what its worker reported, by trial and attempt."""

    def __init__(self, cache_dir: Path) -> None:
        setup = SMALL.setup(cache_dir)
        super().__init__(lambda: Evaluator(setup))
        self.heard: dict[tuple[int, int], list[BlockScored]] = defaultdict(list)

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        events = super().poll(timeout_s)
        for event in events:
            if isinstance(event, BlockScored):
                self.heard[event.trial, event.attempt].append(event)
        return events


def nothing_known(source: Input) -> ModelFacts:
    raise AssertionError(f"nobody asked for the costs of {source}")


def plan() -> Plan:
    measure = Measure("cost", "tokens_per_second", by_item=False)
    speed = Objective("speed", Direction.MAXIMIZE, (measure,), (1.0,))
    meter = Meter((measure,), nothing_known)
    return replace(SMALL.plan(), objectives=(speed,), meter=meter)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/study.db")
    opened.create_study("small", SMALL.config, {}, SMALL.seed)
    yield opened
    opened.close()


def search(store: Store, pool: Listening) -> None:
    patience = Patience(0.0)
    Coordinator(plan(), store, pool, this_process(), patience=patience).run()


def test_a_trial_that_was_cut_off_is_timed_anew_over_all_blocks(
    store: Store, tmp_path: Path
) -> None:
    cut = Listening(tmp_path)
    with pytest.raises(StoreUnreachableError):
        search(ShakyStore(store, at=("record", 16)), cut)
    before = {t.number: t for t in store.trials(store.study("small").id)}
    assert len([t for t in before.values() if t.state is TrialState.SCORED]) == 2
    rest = Listening(tmp_path)
    search(store, rest)
    heard = {number: blocks for (number, _), blocks in rest.heard.items()}
    assert min(heard) == 2, "the third was cut off after two of its four blocks"
    for trial in store.trials(store.study("small").id):
        assert trial.scores is not None
        if trial.number in heard:
            blocks = heard[trial.number]
            assert len({event.block for event in blocks}) == len(blocks) == 4
            seconds = sum(event.seconds for event in blocks)
            speed = trial.scores[SPEED_MEASURE]
            assert speed == pytest.approx(2 * ITEMS * TOKENS / seconds)
        else:
            assert trial.scores == before[trial.number].scores
