"""Numbers for watching: they are those of the tables, and cost what is new."""

from __future__ import annotations

import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
from support.databases import MakeUrl
from support.jobs import submission
from support.searched import EVENTFUL, by_hand, connected, search_small

from evomerge.core.study import Budget
from evomerge.core.trial import TrialState
from evomerge.core.work import ROSTER
from evomerge.store import meter as counting
from evomerge.store.meter import NOBODY, Reading, Tally, open_meter
from evomerge.store.owner import this_process
from evomerge.store.queue.accounts import open_accounts
from evomerge.store.queue.job_queue import open_queue
from evomerge.store.sql import open_store
from evomerge.store.values import AttemptEnd


def metered(url: str) -> Reading:
    meter = open_meter(url)
    try:
        return meter.read()
    finally:
        meter.close()


@pytest.fixture
def searched(searched_file: Path, tmp_path: Path) -> str:
    """Give a file in which it was searched; the other kind takes longer to copy."""
    shutil.copy(searched_file, tmp_path / "searched.db")
    return f"sqlite:///{tmp_path}/searched.db"


def given_to_ann(url: str, study: str = "small") -> None:
    accounts = open_accounts(url)
    accounts.add_user("ann")
    accounts.close()
    queue = open_queue(url)
    queue.submit("ann", submission("job"))
    queue.close()
    by_hand(url, f"UPDATE em_job SET study = '{study}'")


def expected(url: str) -> Tally:
    """Count by the plain reads of the store."""
    store = open_store(url)
    study = store.study("small")
    records = store.history(study.id)
    tally = Tally(items=store.usage(study.id).items)
    for record in records:
        tally.trials[record.state.value] += 1
        tally.reused += record.reused
        tally.seconds.update(record.seconds or {})
    for one in store.attempts(study.id):
        if one.cause is not None:
            blame = "machine" if one.end is AttemptEnd.FAULT else "candidate"
            tally.faults[one.cause.value, blame] += 1
    store.close()
    return tally


def test_numbers_are_those_of_the_tables(searched_url: str) -> None:
    found = metered(searched_url)
    assert list(found.users) == [NOBODY]
    tally, counted = found.users[NOBODY], expected(searched_url)
    assert tally.trials == counted.trials
    assert tally.reused == counted.reused
    assert tally.items == counted.items > 0
    assert tally.faults == counted.faults
    assert {blame for _, blame in tally.faults} == {"candidate", "machine"}
    assert tally.seconds["score"] == pytest.approx(counted.seconds["score"])
    assert tally.worker_s > 0
    assert tally.gpu_s == 0
    assert found.open == Counter()
    assert found.busy == 0


def test_what_is_read_twice_is_counted_once(searched_url: str, tmp_path: Path) -> None:
    meter = open_meter(searched_url)
    first = meter.read().users[NOBODY]
    assert meter.read().users[NOBODY] == first
    longer = replace(EVENTFUL, budget=Budget(trials=24))
    search_small(searched_url, tmp_path, longer)
    again, afresh = meter.read().users[NOBODY], metered(searched_url).users[NOBODY]
    meter.close()
    assert again.trials == afresh.trials == expected(searched_url).trials
    assert again.faults == afresh.faults
    assert again.worker_s == pytest.approx(afresh.worker_s)
    assert sum(again.trials.values()) > sum(first.trials.values())


def test_a_study_at_rest_is_not_read_again(
    searched: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    meter = open_meter(searched)
    first = meter.read()

    def refuse(*_: object) -> None:
        raise AssertionError("it was read again")

    monkeypatch.setattr("evomerge.store.meter._read", refuse)
    assert meter.read() == first
    meter.close()


def test_work_counts_for_whoever_submitted_it(searched_url: str) -> None:
    given_to_ann(searched_url)
    found = metered(searched_url)
    assert list(found.users) == ["ann", NOBODY]
    assert found.users["ann"].items > 0
    assert found.users[NOBODY].items == 0
    assert found.jobs["queued"] == 1
    assert found.oldest_queued_s >= 0
    assert set(found.jobs.values()) == {0, 1}


def test_stages_count_for_whoever_submitted_the_whole(searched: str) -> None:
    given_to_ann(searched, "two.parts")
    by_hand(searched, "UPDATE em_study SET name = 'two.parts.first'")
    assert metered(searched).users["ann"].items > 0


def test_gpu_time_is_that_of_the_workers_that_have_gpus(searched: str) -> None:
    assert metered(searched).users[NOBODY].gpu_s == 0
    store = open_store(searched)
    number = store.study("small").id
    store.add_event(number, "worker", {"worker": "local", "gpus": ["0", "1"]})
    store.add_event(number, "worker", {"worker": "another", "gpus": ["0"]})
    store.close()
    tally = metered(searched).users[NOBODY]
    assert tally.gpu_s == pytest.approx(2 * tally.worker_s)


def test_workers_are_those_of_studies_that_are_led(any_url: str) -> None:
    store = open_store(any_url)
    meter = open_meter(any_url)
    for name in ("one", "two"):
        number = store.create_study(name, {}, {}, 1).id
        lease = store.lease(number, this_process(), 60.0)
        for up in (0, 2):
            roster = {"wanted": 3, "up": up, "waits_for": "a GPU", "n_aside": 1}
            store.add_event(number, ROSTER, roster)
    assert meter.read().workers == {"ready": 4, "missing": 2, "aside": 2}
    store.release(lease)
    assert meter.read().workers == {"ready": 2, "missing": 1, "aside": 1}
    store.close()
    meter.close()


def test_what_is_at_work_is_told_while_it_is(searched: str) -> None:
    store = open_store(searched)
    study = store.study("small")
    lease = store.lease(study.id, this_process(), 60.0)
    by_hand(searched, "UPDATE em_trial SET state = 'pending' WHERE number = 3")
    store.start_attempt(lease, 3, "worker-9")
    meter = open_meter(searched)
    found = meter.read()
    assert found.open == Counter(running=1)
    assert found.busy == 1
    store.recover(lease)
    found = meter.read()
    assert found.open == Counter(pending=1)
    assert found.busy == 0
    store.release(lease)
    store.close()
    meter.close()


def test_what_was_deleted_stays_counted(searched: str) -> None:
    meter = open_meter(searched)
    before = meter.read().users[NOBODY]
    store = open_store(searched)
    store.delete(store.lease(store.study("small").id, this_process(), 60.0))
    store.close()
    assert meter.read().users[NOBODY] == before
    assert meter.read().users[NOBODY] == before
    meter.close()
    assert metered(searched).users[NOBODY] == Tally()


def test_tokens_are_those_of_every_outcome_recorded(searched: str) -> None:
    by_hand(
        searched,
        """UPDATE em_outcome_block SET means = '{"acc":1e-3,"tokens":2.5}'""",
        "UPDATE em_outcome_block SET created = created - 100 WHERE id < 5",
    )
    meter = open_meter(searched)
    with connected(searched) as connection:
        items = connection.exec_driver_sql(
            "SELECT sum(n_items) FROM em_outcome_block"
        ).scalar()
    for _ in range(2):
        assert meter.read().users[NOBODY].tokens == pytest.approx(2.5 * items)
    by_hand(searched, "UPDATE em_outcome_block SET created = created - 100")
    for _ in range(2):
        assert meter.read().users[NOBODY].tokens == pytest.approx(2.5 * items)
    meter.close()


@pytest.mark.parametrize(
    "seconds", ["no json", '{"score":', '{"score":"1"}', '{"score":NaN}', "[1]"]
)
def test_damaged_rows_count_as_nothing(searched_url: str, seconds: str) -> None:
    searched = searched_url
    by_hand(
        searched,
        f"UPDATE em_trial SET seconds = '{seconds}'",
        "UPDATE em_outcome_block SET means = '[1, 2]'",
        "UPDATE em_attempt SET cause = 'strange'",
    )
    tally = metered(searched).users[NOBODY]
    assert tally.trials[TrialState.SCORED] > 0
    assert (tally.tokens, tally.faults) == (0, Counter())
    assert sum(tally.seconds.values()) == 0


def test_an_empty_database_has_numbers_too(new_url: MakeUrl) -> None:
    url = new_url()
    open_queue(url).close()
    found = metered(url)
    assert sum(found.jobs.values()) == 0
    assert found.users == {NOBODY: Tally()}


def test_a_second_look_reads_what_is_new_however_long_a_study_is(
    any_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, length in (("short", 5), ("long", 60)):
        add_led_study(any_url, name, length)
    meter = open_meter(any_url)
    first = meter.read().users[NOBODY]
    read: list[int] = []
    kept = counting._read

    def watched(connection: object, found: object, known: counting._Known) -> None:
        read.append(known.first)
        kept(connection, found, known)  # type: ignore[arg-type]

    monkeypatch.setattr(counting, "_read", watched)
    assert meter.read().users[NOBODY] == first
    assert first.trials == Counter(scored=4 * 65)
    assert read == [5 - 2, 60 - 2], "two generations of each"
    meter.close()


def add_led_study(url: str, name: str, length: int) -> None:
    """Add a study with so many generations of four trials, as if it were at work."""
    store = open_store(url)
    number = store.create_study(name, {}, {}, 1).id
    store.lease(number, this_process(), 3600.0)
    store.close()
    false = "0" if url.startswith("sqlite") else "false"
    generations = ", ".join(f"({number}, {g}, 4, '{{}}', 0)" for g in range(length))
    trials = ", ".join(
        f"({number}, {n}, {n // 4}, {n % 4}, 'r', 'scored', 1, 0, {false}, 0)"
        for n in range(4 * length)
    )
    by_hand(
        url,
        "INSERT INTO em_recipe (digest, body) VALUES ('r', '') ON CONFLICT DO NOTHING",
        "INSERT INTO em_generation (study_id, number, size, memory, created) VALUES "
        f"{generations}",
        "INSERT INTO em_trial (study_id, number, generation, position, recipe_digest, "
        f"state, attempt, faults, reused, changed) VALUES {trials}",
    )
