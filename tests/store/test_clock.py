"""A database's clock that jumps: nobody is locked out, and nothing is written twice."""

import time
from pathlib import Path

import pytest
from support.searched import ask, by_hand

from evomerge.core.study import Budget
from evomerge.errors import LeaseLostError, StudyLockedError
from evomerge.search.coordinator import Coordinator
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, decided
from evomerge.testing.store_samples import ELSEWHERE, candidates

DAY_S = 86_400.0


def jump(url: str, seconds: float) -> None:
    """Move every lease as a jump of the clock would: it ends so much later."""
    by_hand(url, f"UPDATE em_study SET lease_until = lease_until + ({-seconds})")


def test_after_a_jump_forward_the_heir_writes_and_the_old_one_does_not(
    any_url: str,
) -> None:
    store = open_store(any_url)
    study = store.create_study("s", {}, {}, 1)
    old = store.lease(study.id, ELSEWHERE, 60)
    store.add_generation(old, 0, candidates(0, 2), {}, None)
    store.start_attempt(old, 0, "w")
    with pytest.raises(StudyLockedError):
        store.lease(study.id, this_process(), 60)
    jump(any_url, DAY_S)
    store.renew(old, 0.0)  # nobody came: it is only late
    jump(any_url, DAY_S)
    new = store.lease(study.id, this_process(), 60)
    for write in (
        lambda: store.renew(old, 0.0),
        lambda: store.start_attempt(old, 1, "w"),
        lambda: store.recover(old),
        lambda: store.set_finished(old, "budget"),
    ):
        with pytest.raises(LeaseLostError, match="taken over"):
            write()
    assert store.recover(new) == [0]
    assert store.start_attempt(new, 0, "w") == 2
    assert list(store.check()) == []
    store.close()


@pytest.mark.slow
def test_a_search_whose_lease_went_with_a_jump_ends_and_leaves_all_to_the_heir(
    any_url: str, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=8))
    store, other = open_store(any_url), open_store(any_url)
    study = store.create_study("small", small.config, {}, small.seed)
    seen = []

    def observe(_: object) -> None:
        if not seen:
            seen.append(store.study("small"))
            jump(any_url, DAY_S)
            other.lease(study.id, ELSEWHERE, 60)

    plan, pool = small.plan(), small.pool(tmp_path)
    with pytest.raises(LeaseLostError, match="taken over"):
        Coordinator(plan, store, pool, this_process(), observe).run()
    assert ask(any_url, "SELECT lease_host FROM em_study") == ELSEWHERE.host
    with pytest.raises(StudyLockedError, match="process 1 on another-host"):
        Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    jump(any_url, DAY_S)
    Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    calm = open_store(f"sqlite:///{tmp_path}/calm.db")
    calm.create_study("small", small.config, {}, small.seed)
    Coordinator(plan, calm, small.pool(tmp_path), this_process()).run()
    assert decided(store) == decided(calm)
    assert list(store.check()) == []
    for each in (store, other, calm):
        each.close()


def test_after_a_jump_backward_a_dead_holder_blocks_no_longer_than_its_lease(
    any_url: str,
) -> None:
    store = open_store(any_url)
    study = store.create_study("s", {}, {}, 1)
    old = store.lease(study.id, ELSEWHERE, 0.5)
    jump(any_url, -DAY_S)
    with pytest.raises(StudyLockedError, match=r"its lease ends in [01] s"):
        store.lease(study.id, this_process(), 60)
    time.sleep(0.6)
    new = store.lease(study.id, this_process(), 60)
    with pytest.raises(LeaseLostError):
        store.renew(old, 0.0)
    store.renew(new, 0.0)
    store.close()


def test_after_a_jump_backward_a_living_holder_keeps_its_lease(any_url: str) -> None:
    store = open_store(any_url)
    study = store.create_study("s", {}, {}, 1)
    lease = store.lease(study.id, ELSEWHERE, 60)
    jump(any_url, -DAY_S)
    for _ in range(2):
        with pytest.raises(StudyLockedError, match=r"its lease ends in (60|59) s"):
            store.lease(study.id, this_process(), 60)
        store.renew(lease, 0.0)
    [entry] = store.overview()
    assert entry.holder is not None
    assert 0 < entry.holder.left_s <= 60
    store.close()
