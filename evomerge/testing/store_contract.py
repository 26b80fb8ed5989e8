"""What every store must do, as tests; here with outcomes, events and artifacts."""

# ruff: noqa: D102 - a test's name is its sentence

from __future__ import annotations

from collections.abc import Sequence

import pytest

from evomerge.core.scoring_protocol import BlockKey, ItemRole, Outcome
from evomerge.core.trial import Trial
from evomerge.errors import LeaseLostError, StoreError
from evomerge.store.base import Lease, PartBegun, Report, Store
from evomerge.store.owner import this_process
from evomerge.store.values import CrewMember
from evomerge.testing.store_samples import (
    BLOCK_SIZE,
    N_BLOCKS,
    Opened,
    StoreFixtures,
    answers,
    candidates,
    search_block,
    task,
)
from evomerge.testing.store_studies import StudyContract
from evomerge.testing.store_trials import TrialContract


class OutcomeContract(StoreFixtures):
    """Outcomes are recorded once, reused everywhere, and counted once."""

    # Outcomes.

    def test_blocks_add_up_and_repeating_one_changes_nothing(
        self, opened: Opened, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        recipe = trials[0].candidate.recipe.digest
        store.start_attempt(lease, 1, "w")
        for index in (0, 2, 0):
            block = search_block(index)
            store.record(lease, 1, 1, Report({block: answers(block)}))
        block = search_block(0)
        late = Report({block: answers(block, 0.0)})  # too late to lie
        store.record(lease, 1, 1, late)
        found = opened().outcomes(recipe, task().protocol.digest)
        expected = answers(search_block(0)) + answers(search_block(2))
        assert found == {outcome.item: outcome for outcome in expected}
        assert store.usage(lease.study_id).items == 2 * BLOCK_SIZE

    def test_outcomes_belong_to_recipe_and_protocol(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        block = search_block(0)
        store.start_attempt(lease, 1, "w")
        store.record(lease, 1, 1, Report({block: answers(block)}))
        first, second = (trial.candidate.recipe.digest for trial in trials[:2])
        assert not store.outcomes(second, task().protocol.digest)
        assert not store.outcomes(first, task(settings=2).protocol.digest)

    def test_outcomes_are_shared_between_studies_and_counted_once(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        block = search_block(0)
        store.start_attempt(lease, 1, "w")
        store.record(lease, 1, 1, Report({block: answers(block)}))
        other = store.create_study("other", {}, {}, 1)
        mine = store.lease(other.id, this_process(), 60)
        store.record_tasks(mine, [task()])
        store.add_generation(mine, 0, [], {}, None)
        store.add_generation(mine, 1, candidates(1, 1), {}, None)
        store.start_attempt(mine, 0, "w")
        for index in (0, 1):
            block = search_block(index)
            store.record(mine, 0, 1, Report({block: answers(block)}))
        assert store.usage(other.id).items == BLOCK_SIZE  # block 1 only
        assert store.usage(other.id).trials == 1

    def test_a_block_needs_exactly_its_items(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w")
        block = search_block(0)
        good = answers(block)
        for wrong in (
            good[:-1],
            [],
            good + answers(search_block(1)),
            [*good, good[0]],
            [Outcome(good[0].item, {"acc": float("inf")}), *good[1:]],
        ):
            with pytest.raises(StoreError):
                store.record(lease, 1, 1, Report({block: wrong}))
        for missing in (search_block(N_BLOCKS), BlockKey("u", ItemRole.SEARCH, 0)):
            with pytest.raises(StoreError):
                store.record(lease, 1, 1, Report({missing: good}))
        assert store.usage(lease.study_id).items == 0

    def test_what_comes_together_is_recorded_together_or_not_at_all(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        store.start_attempt(lease, 1, "w")
        one, two, three = map(search_block, range(3))
        begun = PartBegun(1, "w", (one, two))
        bad = {one: answers(one), two: answers(three)}
        with pytest.raises(StoreError):
            store.record(lease, 1, 1, Report(bad, begun=begun))
        assert store.usage(lease.study_id).items == 0
        assert not store.parts(lease.study_id, 1)
        both = {two: answers(two), one: answers(one)}
        store.record(lease, 1, 1, Report(both, begun=begun))
        assert store.usage(lease.study_id).items == 2 * BLOCK_SIZE
        assert [part.blocks for part in store.parts(lease.study_id, 1)] == [(one, two)]
        store.record(lease, 1, 1, Report({**both, three: answers(three)}))
        assert store.usage(lease.study_id).items == 3 * BLOCK_SIZE

    def test_held_out_outcomes_need_no_lease_and_the_first_stands(
        self, store: Store, opened: Opened, trials: Sequence[Trial]
    ) -> None:
        first = [Outcome("i1", {"acc": 1.0}), Outcome("i2", {"acc": 0.25}, 3, True)]
        late = [Outcome("i2", {"acc": 0.0}), Outcome("i3", {"acc": 0.5})]
        recipe = trials[0].candidate.recipe.digest
        store.add_outcomes(recipe, "p", first)
        opened().add_outcomes(recipe, "p", late)
        found = opened().outcomes(recipe, "p")
        assert found == {"i1": first[0], "i2": first[1], "i3": late[1]}

    def test_usage_counts_candidates_and_not_baselines(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        block = search_block(0)
        for number in (0, 1):
            store.start_attempt(lease, number, "w")
            store.record(lease, number, 1, Report({block: answers(block)}))
        store.renew(lease, 2.5)
        usage = store.usage(lease.study_id)
        assert (usage.trials, usage.items, usage.seconds) == (4, BLOCK_SIZE, 2.5)

    # Memories.

    def test_the_crew_is_who_was_recorded_last(
        self, opened: Opened, lease: Lease
    ) -> None:
        """Recorded under the lease alone, as often as it changes."""
        facts = {"host": "h", "ip": "10.0.0.1", "versions": {"torch": "2.13.0"}}
        store = opened()
        store.record_crew(
            lease, [CrewMember(n, n == "w0", facts) for n in ("w0", "w1")]
        )
        store.record_crew(lease, [CrewMember("w1", True, {})])
        store.record_crew(lease, ())
        opened().release(lease)
        with pytest.raises(LeaseLostError):
            store.record_crew(lease, ())

    def test_events_come_oldest_first_and_by_kind(
        self, opened: Opened, lease: Lease
    ) -> None:
        opened().add_event(lease.study_id, "worker", {"device": "cpu"})
        opened().add_event(lease.study_id, "opened", {"n": 1})
        opened().add_event(lease.study_id, "worker", {"device": "gpu"})
        assert [e.kind for e in opened().events(lease.study_id)] == [
            "worker",
            "opened",
            "worker",
        ]
        workers = opened().events(lease.study_id, "worker")
        assert [e.data["device"] for e in workers] == ["cpu", "gpu"]

    def test_artifacts_are_remembered_once(
        self, store: Store, lease: Lease, trials: Sequence[Trial]
    ) -> None:
        for path in ("/out/a", "/out/b", "/out/a"):
            store.add_artifact(lease.study_id, 1, path, "d")
        found = store.artifacts(lease.study_id)
        assert [(a.trial, a.path, a.digest) for a in found] == [
            (1, "/out/a", "d"),
            (1, "/out/b", "d"),
        ]

    def test_closing_twice_is_no_error(self, opened: Opened) -> None:
        store = opened()
        store.close()
        store.close()


class StoreContract(StudyContract, TrialContract, OutcomeContract):
    """Inherit, and give a fixture ``make_store``."""
