"""What is left of a budget, without asking the store after every trial."""

from dataclasses import replace
from typing import Any

import pytest

from evomerge.core.study import Budget
from evomerge.core.work import GpuTime
from evomerge.search.budget import BudgetWatch, GpuWatch
from evomerge.store.base import Usage


class Counter:
    """The one call of a store that a budget needs, counted."""

    def __init__(self) -> None:
        self.now = Usage(trials=0, items=0, seconds=0.0)
        self.n_reads = 0

    def usage(self, _study_id: int) -> Usage:
        self.n_reads += 1
        return self.now

    def score(self, watch: BudgetWatch, n_items: int, *, charged: int) -> None:
        watch.note_items(n_items)
        watch.recorded(n_items)
        self.now = replace(self.now, items=self.now.items + charged)


def watch(store: Any, clock: list[float] | None = None, **limits: Any) -> BudgetWatch:
    times = clock or [0.0]
    return BudgetWatch(Budget(**limits), store, 1, clock=lambda: times[0])


def test_the_store_is_asked_only_when_the_limit_may_be_near() -> None:
    store = Counter()
    budget = watch(store, items=1000)
    for _ in range(9):
        assert budget.allows(1)
        store.score(budget, 100, charged=100)
    assert store.n_reads == 1
    assert budget.allows(1)
    store.score(budget, 100, charged=100)
    assert not budget.allows(1)
    assert store.n_reads == 2


def test_items_that_the_store_does_not_have_yet_count() -> None:
    store = Counter()
    budget = watch(store, items=1000)
    store.score(budget, 900, charged=900)
    budget.note_items(60)
    assert budget.items_left(1, enough=100) == 40
    budget.note_items(40)
    assert not budget.allows(1)
    assert budget.spent() == "item budget used"


def test_items_that_cost_nothing_leave_the_budget_as_it_is() -> None:
    store = Counter()
    budget = watch(store, items=1000)
    assert budget.allows(1)
    store.score(budget, 5000, charged=0)
    assert budget.allows(1)


def test_baselines_may_start_when_the_items_are_used() -> None:
    store = Counter()
    store.now = Usage(trials=0, items=50, seconds=0.0)
    budget = watch(store, items=50)
    assert budget.allows(0)
    assert not budget.allows(1)


@pytest.mark.parametrize("is_recorded", [False, True])
def test_seconds_count_whether_the_store_knows_of_them_or_not(
    is_recorded: bool,
) -> None:
    store, now = Counter(), [100.0]
    store.now = Usage(trials=0, items=0, seconds=30.0)
    budget = watch(store, now, seconds=60)
    assert budget.allows(1)
    now[0] += 29
    if is_recorded:
        spent = budget.take_unrecorded()
        store.now = replace(store.now, seconds=store.now.seconds + spent)
    assert budget.allows(1)
    now[0] += 1
    assert not budget.allows(1)
    assert budget.spent() == "time budget used"


def test_nothing_is_begun_once_the_gpu_time_is_used_until_there_is_more() -> None:
    watch = GpuWatch()
    assert not watch.is_used(1e9)  # nobody limits it
    watch.look(GpuTime(left_s=60.0, elsewhere=2.0), gpus=4.0, now=100.0)
    assert not watch.is_used(109.9)
    assert watch.is_used(110.0)  # six GPUs at once
    watch.look(GpuTime(left_s=12.0), gpus=4.0, now=110.0)  # they were not all at work
    assert not watch.is_used(112.9)
    assert watch.is_used(113.0)
    watch.look(GpuTime(left_s=-1.0), gpus=4.0, now=115.0)
    assert watch.is_used(115.0)
    watch.look(None, gpus=4.0, now=116.0)
    assert not watch.is_used(1e9)


def test_a_study_without_gpus_uses_none_of_the_time() -> None:
    watch = GpuWatch()
    watch.look(GpuTime(left_s=0.0), gpus=0.0, now=0.0)
    assert not watch.is_used(1e9)
