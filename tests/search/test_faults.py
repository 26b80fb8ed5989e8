"""Every fault, through the whole search: where it ends, who is blamed, what is seen."""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from evomerge import api
from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.study import Budget
from evomerge.core.trial import Blame, Cause, TrialState
from evomerge.core.work import BlockScored, PoolEvent
from evomerge.errors import StoreError
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, decided


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()


def small(**options: Any) -> SmallStudy:
    return SmallStudy(budget=Budget(trials=2), options=options)


def search(store: Store, study: SmallStudy, cache: Path) -> str:
    plan = study.plan()
    if not store.studies():
        store.create_study(plan.name, study.config, {}, plan.seed)
    return Coordinator(plan, store, study.pool(cache), this_process()).run()


FINAL = {
    "non-finite weights": ({"fail_if": 1.0}, Cause.NON_FINITE, "not finite", "weights"),
    "task code": ({"error_if": 1.0}, Cause.EVALUATION, "error in the task", "KeyError"),
}
REPEATED = {
    "machine": ({"break_if": 1.0}, Cause.ENGINE, "engine failed", "machine failed"),
    "memory": ({"memory_if": 1.0}, Cause.OUT_OF_MEMORY, "out of memory", "MemoryError"),
    "disk": ({"full_if": 1.0}, Cause.DISK_FULL, "disk full", "No space left"),
}


@pytest.mark.parametrize("name", FINAL)
def test_the_candidates_fault_is_final_and_told(
    store: Store, url: str, tmp_path: Path, name: str
) -> None:
    options, cause, words, message = FINAL[name]
    assert search(store, small(**options), tmp_path) == "trial budget used"
    for trial in store.trials(store.study("small").id):
        assert trial.state is TrialState.FAILED
        assert trial.failure is not None
        assert (trial.failure.cause, trial.failure.blame) == (cause, Blame.CANDIDATE)
        assert (trial.attempt, trial.faults) == (1, 0)
    for row in api.trials("small", db=url):
        assert row.failure is not None
        assert row.failure.startswith(f"{words} (candidate's fault): ")
        assert message in row.failure
    status = api.status("small", db=url)
    assert status.causes == {words: 4}
    assert (status.counts["failed"], status.faults) == (4, 0)


@pytest.mark.parametrize("name", REPEATED)
def test_a_machines_fault_on_every_machine_quarantines(
    store: Store, url: str, tmp_path: Path, name: str
) -> None:
    options, cause, words, message = REPEATED[name]
    assert search(store, small(**options), tmp_path) == "trial budget used"
    for trial in store.trials(store.study("small").id):
        assert trial.state is TrialState.QUARANTINED
        assert trial.failure is not None
        assert (trial.failure.cause, trial.failure.blame) == (cause, Blame.MACHINE)
        assert (trial.attempt, trial.faults) == (3, 3)
    for row in api.trials("small", db=url):
        assert row.failure is not None
        first = row.failure.partition("\n")[0]
        assert first.startswith(f"{words} (machine's fault): ")
        assert "Machines failed 3 times on this trial" in first
        assert message in row.failure
    status = api.status("small", db=url)
    assert status.causes == {words: 4}
    assert (status.counts["quarantined"], status.faults) == (4, 12)


@pytest.mark.parametrize("name", REPEATED)
def test_a_machines_fault_that_passes_is_tried_again_until_it_is_scored(
    store: Store, url: str, tmp_path: Path, name: str
) -> None:
    options, _, words, _ = REPEATED[name]
    search(store, small(**options, fault_times=1), tmp_path)
    for row in api.trials("small", db=url):
        assert row.state == "scored"
        assert row.failure is None
        assert (row.attempt, row.faults) == (3, 2)  # a fault in each of the two tasks
    attempts = store.attempts(store.study("small").id, 0)
    assert [a.cause and a.cause.words for a in attempts] == [words, words, None]


def test_a_timeout_is_tried_once_more_and_then_the_candidates_fault(
    store: Store, url: str, tmp_path: Path
) -> None:
    slow = replace(small(sleep_s=0.03), timeout_s=0.02)
    search(store, slow, tmp_path)
    for trial in store.trials(store.study("small").id):
        assert trial.state is TrialState.FAILED
        assert trial.failure is not None
        assert trial.failure.cause is Cause.TIMEOUT
        assert trial.failure.blame is Blame.CANDIDATE
        assert (trial.attempt, trial.faults) == (2, 1)
    for row in api.trials("small", db=url):
        assert row.failure is not None
        assert row.failure.startswith(
            "timed out (candidate's fault): Attempt 2 on local"
        )
        assert row.failure.endswith("It had timed out before.")
    assert api.status("small", db=url).causes == {"timed out": 4}


def test_a_poison_candidate_is_set_aside_and_the_study_goes_on(
    store: Store, url: str, tmp_path: Path
) -> None:
    poison = SmallStudy(budget=Budget(trials=12), options={"break_if": 0.3})
    assert search(store, poison, tmp_path) == "trial budget used"
    counts = api.status("small", db=url).counts
    assert counts["quarantined"] > 0
    assert counts["scored"] > 0
    assert counts["quarantined"] + counts["scored"] == 14


class WrongAnswers(InProcessPool):
    """A worker that leaves something out, or says what is no number."""

    change: Callable[[BlockScored], BlockScored]

    def poll(self, timeout_s: float) -> Sequence[PoolEvent]:
        return [
            self.change(event) if isinstance(event, BlockScored) else event
            for event in super().poll(timeout_s)
        ]


def first_left_out(event: BlockScored) -> BlockScored:
    return replace(event, outcomes=event.outcomes[1:])


def first_is_nan(event: BlockScored) -> BlockScored:
    wrong = replace(event.outcomes[0], metrics={"acc": math.nan})
    return replace(event, outcomes=(wrong, *event.outcomes[1:]))


@pytest.mark.parametrize(
    ("change", "state", "words"),
    [
        (first_left_out, "quarantined", "engine failed (machine's fault): local answ"),
        (first_is_nan, "failed", "error in the task (candidate's fault): Metric 'acc'"),
    ],
)
def test_answers_that_are_wrong_never_reach_the_store(
    store: Store, url: str, tmp_path: Path, change: Any, state: str, words: str
) -> None:
    study = small()
    setup = study.setup(tmp_path)
    pool = WrongAnswers(lambda: Evaluator(setup))
    pool.change = change
    plan = study.plan()
    store.create_study(plan.name, study.config, {}, plan.seed)
    Coordinator(plan, store, pool, this_process()).run()
    rows = api.trials("small", db=url)
    assert {row.state for row in rows} == {state}
    assert all(row.failure and row.failure.startswith(words) for row in rows)
    assert store.usage(store.study("small").id).items == 0


def test_a_disk_that_is_full_for_the_database_stops_the_run_and_loses_nothing(
    store: Store, tmp_path: Path
) -> None:
    calm = open_store(f"sqlite:///{tmp_path}/calm.db")
    study = SmallStudy(budget=Budget(trials=24), options={"items": 200})
    search(calm, study, tmp_path)
    plan = study.plan()
    store.create_study(plan.name, study.config, {}, plan.seed)
    with store._database.writing() as connection:  # type: ignore[attr-defined]
        pages = connection.exec_driver_sql("PRAGMA page_count").scalar()
        connection.exec_driver_sql(f"PRAGMA max_page_count = {pages + 4}")
    with pytest.raises(StoreError, match="no space is left"):
        search(store, study, tmp_path)
    before = decided(store)
    scored = [row for row in before if row[2] is TrialState.SCORED]
    store.close()
    again = open_store(f"sqlite:///{tmp_path}/study.db")
    search(again, study, tmp_path)
    after = decided(again)
    assert scored
    assert after == decided(calm)
    assert [row for row in after if row in scored] == scored
    again.close()
    calm.close()
