"""What every store must do with studies, leases and tasks."""

# ruff: noqa: D102 - a test's name is its sentence

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import pytest

from evomerge.core.scoring_protocol import Manifest, TaskDescription
from evomerge.core.trial import Trial
from evomerge.errors import (
    LeaseLostError,
    StoreError,
    StudyExistsError,
    StudyLockedError,
    StudyNotFoundError,
)
from evomerge.store.base import Lease, Owner, Report, Store
from evomerge.store.owner import this_process
from evomerge.testing.store_samples import (
    CONFIG,
    ELSEWHERE,
    TASK,
    Opened,
    StoreFixtures,
    candidates,
    scored,
    task,
)


class StudyContract(StoreFixtures):
    """Studies are found, leased to one coordinator, and keep their tasks."""

    # Studies.

    def test_a_study_reads_back_as_it_was_created(self, opened: Opened) -> None:
        created = opened().create_study("s", CONFIG, {"trials": 5}, seed=2**62)
        found = opened().study("s")
        assert found == created
        assert (found.config, found.allowance) == (CONFIG, {"trials": 5})
        assert (found.seed, found.spent_s, found.finished) == (2**62, 0.0, None)
        assert found.created.endswith("+00:00")

    def test_a_taken_name_is_refused(self, store: Store) -> None:
        store.create_study("s", CONFIG, {}, 1)
        with pytest.raises(StudyExistsError, match="'s' exists"):
            store.create_study("s", {}, {}, 2)
        assert [study.config for study in store.studies()] == [CONFIG]

    def test_a_study_without_a_worker_takes_another_configuration(
        self, store: Store
    ) -> None:
        study = store.create_study("s", CONFIG, {"trials": 5}, 1)
        lease = store.lease(study.id, this_process(), 60.0)
        store.add_generation(lease, 0, candidates(0, 2), {}, None)
        store.add_event(study.id, "kind", {})
        store.restart(lease, {"other": 1}, {"trials": 6}, 2)
        found = store.study("s")
        assert (found.config, found.seed) == ({"other": 1}, 2)
        assert found.allowance == {"trials": 6}
        assert not store.trials(study.id)
        assert not store.generations(study.id)
        assert not store.events(study.id)
        store.release(lease)
        with pytest.raises(LeaseLostError):
            store.restart(lease, CONFIG, {}, 1)

    def test_a_study_that_had_a_worker_keeps_its_configuration(
        self, store: Store
    ) -> None:
        study = store.create_study("s", CONFIG, {}, 1)
        lease = store.lease(study.id, this_process(), 60.0)
        store.add_generation(lease, 0, candidates(0, 2), {}, None)
        store.record_tasks(lease, [task()])
        with pytest.raises(StoreError, match="'s' has had a worker"):
            store.restart(lease, {"other": 1}, {}, 2)
        assert store.study("s") == study
        assert len(store.trials(study.id)) == 2

    def test_a_missing_study_lists_the_names_there_are(self, store: Store) -> None:
        with pytest.raises(StudyNotFoundError, match="no study yet"):
            store.study("demo")
        for name in ("demo1", "other"):
            store.create_study(name, {}, {}, 1)
        with pytest.raises(
            StudyNotFoundError, match=r"mean 'demo1'\? .*'demo1', 'other'"
        ):
            store.study("demo")

    def test_studies_come_oldest_first(self, store: Store) -> None:
        for name in ("b", "a", "c"):
            store.create_study(name, {}, {}, 1)
        assert [study.name for study in store.studies()] == ["b", "a", "c"]

    @pytest.mark.parametrize(
        ("name", "config", "seed"),
        [("", {}, 1), ("x" * 201, {}, 1), ("s", {}, -1), ("s", {}, 2**63)],
    )
    def test_an_unusable_study_is_refused(
        self, store: Store, name: str, config: dict[str, Any], seed: int
    ) -> None:
        with pytest.raises(StoreError):
            store.create_study(name, config, {}, seed)
        assert not store.studies()

    def test_numbers_that_are_not_finite_are_refused(self, store: Store) -> None:
        with pytest.raises(StoreError, match="finite"):
            store.create_study("s", {"x": float("nan")}, {}, 1)
        assert not store.studies()

    def test_allowance_end_and_time_can_change(
        self, store: Store, lease: Lease
    ) -> None:
        store.set_allowance(lease, {"trials": 99})
        store.set_finished(lease, "budget")
        store.renew(lease, 1.25)
        store.renew(lease, 0.5)
        study = store.study("s")
        assert (study.allowance, study.finished) == ({"trials": 99}, "budget")
        assert study.spent_s == 1.75
        store.set_finished(lease, None)
        assert store.study("s").finished is None

    # The lease.

    def test_a_held_lease_is_refused_and_names_the_holder(
        self, store: Store, lease: Lease
    ) -> None:
        with pytest.raises(StudyLockedError, match=f"process {this_process().pid} on"):
            store.lease(lease.study_id, ELSEWHERE, 60)

    def test_a_released_lease_is_free_and_its_epoch_is_over(
        self, store: Store, lease: Lease
    ) -> None:
        store.release(lease)
        store.release(lease)
        second = store.lease(lease.study_id, ELSEWHERE, 60)
        assert second.epoch > lease.epoch
        with pytest.raises(LeaseLostError, match="taken over"):
            store.renew(lease, 1.0)
        store.release(lease)  # long lost: must not free the new holder's
        with pytest.raises(StudyLockedError):
            store.lease(lease.study_id, this_process(), 60)

    def test_a_released_lease_writes_no_more(self, store: Store, lease: Lease) -> None:
        store.release(lease)
        with pytest.raises(LeaseLostError, match="given back"):
            store.set_finished(lease, "budget")

    def test_an_expired_lease_is_free_and_renewing_prolongs(self, store: Store) -> None:
        study = store.create_study("s", {}, {}, 1)
        first = store.lease(study.id, ELSEWHERE, 1.2)
        time.sleep(0.7)
        store.renew(first, 0)
        time.sleep(0.6)
        with pytest.raises(StudyLockedError):
            store.lease(study.id, this_process(), 60)
        time.sleep(0.8)
        assert store.lease(study.id, this_process(), 60).epoch > first.epoch

    def test_an_expired_lease_that_nobody_took_still_writes(self, store: Store) -> None:
        study = store.create_study("s", {}, {}, 1)
        lease = store.lease(study.id, this_process(), 0.01)
        time.sleep(0.05)
        store.set_finished(lease, "budget")
        assert store.study("s").finished == "budget"

    def test_the_lease_of_a_dead_process_here_is_free_at_once(
        self, store: Store, lease: Lease
    ) -> None:
        dead = Owner(this_process().host, this_process().pid, "another start")
        store.release(lease)
        held = store.lease(lease.study_id, dead, 3600)
        assert store.lease(lease.study_id, this_process(), 60).epoch > held.epoch

    def test_the_holder_itself_may_take_its_lease_anew(
        self, store: Store, lease: Lease
    ) -> None:
        again = store.lease(lease.study_id, this_process(), 60)
        assert again.epoch > lease.epoch
        with pytest.raises(LeaseLostError, match="taken over"):
            store.renew(lease, 1.0)
        store.renew(again, 1.0)

    def test_what_makes_no_sense_is_refused(self, store: Store, lease: Lease) -> None:
        for call in (
            lambda: store.lease(lease.study_id, ELSEWHERE, 0),
            lambda: store.renew(lease, -1.0),
            lambda: store.renew(lease, float("nan")),
            lambda: store.set_allowance(lease, {"x": float("inf")}),
            lambda: store.record_tasks(store.lease(99, ELSEWHERE, 1), []),
            lambda: store.usage(99),
            lambda: store.renew(Lease(99, 1, 1.0), 0.0),
        ):
            with pytest.raises(StoreError):
                call()
        assert store.study("s").spent_s == 0.0

    def test_leases_of_two_studies_do_not_touch(
        self, store: Store, lease: Lease
    ) -> None:
        other = store.create_study("other", {}, {}, 1)
        store.lease(other.id, ELSEWHERE, 60)
        store.renew(lease, 1)
        spent = {stored.name: stored.spent_s for stored in store.studies()}
        assert spent == {"s": 1.0, "other": 0.0}

    def test_every_write_of_a_lost_lease_is_refused(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w")
        store.release(lease)
        store.lease(lease.study_id, ELSEWHERE, 60)
        before = store.trials(lease.study_id)
        for write in (
            lambda: store.set_allowance(lease, {}),
            lambda: store.set_finished(lease, "x"),
            lambda: store.record_tasks(lease, [task()]),
            lambda: store.add_generation(lease, 2, candidates(2, 1), {}, None),
            lambda: store.extend_generation(lease, 1, candidates(1, 1, 4)),
            lambda: store.start_attempt(lease, 2, "w"),
            lambda: store.record(lease, 1, 1, Report()),
            lambda: store.end_attempt(lease, 1, 1, scored()),
            lambda: store.reuse(lease, 2, {"t/acc": 1.0}),
            lambda: store.recover(lease),
        ):
            with pytest.raises(LeaseLostError):
                write()
        assert store.trials(lease.study_id) == before
        assert len(store.generations(lease.study_id)) == 2

    # Tasks.

    def test_tasks_read_back_and_may_be_repeated(
        self, store: Store, lease: Lease
    ) -> None:
        store.record_tasks(lease, [task()])
        assert store.tasks(lease.study_id) == [task()]

    def test_a_study_has_no_tasks_before_they_are_recorded(self, store: Store) -> None:
        assert store.tasks(store.create_study("s", {}, {}, 1).id) is None

    def test_other_tasks_are_refused_and_named(
        self, store: Store, lease: Lease
    ) -> None:
        for other, said in (
            ([task(settings=2)], r"'t'.*another protocol \(way\)"),
            ([task("u")], r"\['t'\].*\['u'\]"),
            ([task(), task("u")], "offers"),
            (
                [
                    TaskDescription(
                        Manifest(TASK, task().manifest.items[1:]),
                        task().protocol,
                        ("acc",),
                    )
                ],
                "other items",
            ),
        ):
            with pytest.raises(StoreError, match=said):
                store.record_tasks(lease, other)
        assert store.tasks(lease.study_id) == [task()]

    def test_two_studies_may_share_a_task(self, store: Store, lease: Lease) -> None:
        other = store.create_study("other", {}, {}, 1)
        mine = store.lease(other.id, this_process(), 60)
        store.record_tasks(mine, [task(), task("u")])
        assert store.tasks(other.id) == [task(), task("u")]
