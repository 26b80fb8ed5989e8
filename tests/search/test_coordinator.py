"""A whole search, on a real store and a simulated engine."""

import os
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from evomerge.cluster.inprocess import InProcessPool
from evomerge.core.blueprint import (
    Coordinate,
    KnobPlan,
    MergeBlueprint,
    OperatorPlan,
    Schedule,
)
from evomerge.core.recipes.recipe import Checkpoint, Recipe, Slot
from evomerge.core.roles import for_role
from evomerge.core.space import Blueprint
from evomerge.core.study import Budget, StrategySettings
from evomerge.core.trial import Point, Trial, TrialState
from evomerge.errors import ReplayError, SpecError, StudyLockedError
from evomerge.scoring.evaluator import Evaluator
from evomerge.search.coordinator import Coordinator
from evomerge.search.plan import Plan
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, accuracy, decided


@pytest.fixture
def store(tmp_path: Path) -> Iterator[Store]:
    opened = open_store(f"sqlite:///{tmp_path}/study.db")
    yield opened
    opened.close()


def search(store: Store, small: SmallStudy, cache: Path) -> str:
    plan = small.plan()
    if not store.studies():
        store.create_study(plan.name, {}, {}, plan.seed)
    return Coordinator(plan, store, small.pool(cache), this_process()).run()


def trials_of(store: Store) -> list[Trial]:
    return list(store.trials(store.study("small").id))


def test_a_search_scores_baselines_first_and_then_its_budget(
    store: Store, tmp_path: Path
) -> None:
    assert search(store, SmallStudy(), tmp_path) == "trial budget used"
    trials = trials_of(store)
    assert [t.candidate.generation for t in trials] == [0] * 2 + [1] * 4 + [2] * 4 + [
        3
    ] * 4
    assert all(t.state is TrialState.SCORED for t in trials)
    assert set(trials[0].scores or {}) >= {"x/acc", "x/tokens", "y/truncated"}
    assert store.study("small").finished == "trial budget used"


def test_the_last_generation_is_cut_to_the_budget(store: Store, tmp_path: Path) -> None:
    search(store, SmallStudy(budget=Budget(trials=6)), tmp_path)
    assert store.usage(store.study("small").id).trials == 6


@pytest.mark.parametrize("kind", ["random", "cma", "catcma", "tpe", "nsga2", "climb"])
def test_a_raised_budget_gives_what_it_would_have_given_from_the_start(
    kind: str, tmp_path: Path
) -> None:
    strategy = StrategySettings(kind, 4)
    small = SmallStudy(strategy, objectives=("x", "y") if kind == "nsga2" else ("x",))
    whole = open_store(f"sqlite:///{tmp_path}/whole.db")
    search(whole, replace(small, budget=Budget(trials=14)), tmp_path)
    parts = open_store(f"sqlite:///{tmp_path}/parts.db")
    for n_trials in (3, 6, 14):
        search(parts, replace(small, budget=Budget(trials=n_trials)), tmp_path)
    assert decided(parts) == decided(whole)


def test_failed_candidates_are_recorded_and_the_search_goes_on(
    store: Store, tmp_path: Path
) -> None:
    search(store, SmallStudy(options={"fail_if": 0.4}), tmp_path)
    states = Counter(t.state for t in trials_of(store))
    assert states[TrialState.FAILED] > 0
    assert states[TrialState.SCORED] > 0
    failed = next(t for t in trials_of(store) if t.state is TrialState.FAILED)
    assert failed.failure is not None
    assert failed.attempt == 1


def test_a_machine_that_fails_once_costs_an_attempt_and_nothing_else(
    store: Store, tmp_path: Path
) -> None:
    search(store, SmallStudy(options={"break_if": 1.0, "fault_times": 1}), tmp_path)
    trials = trials_of(store)
    assert all(t.state is TrialState.SCORED for t in trials)
    assert {t.attempt for t in trials} == {3}  # one fault in each of the two tasks


def test_a_machine_that_always_fails_quarantines_and_the_study_ends(
    store: Store, tmp_path: Path
) -> None:
    search(store, SmallStudy(options={"break_if": 1.0}), tmp_path)
    assert {t.state for t in trials_of(store)} == {TrialState.QUARANTINED}
    assert {t.attempt for t in trials_of(store)} == {3}


def test_outcomes_known_from_another_study_are_reused(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=8))
    search(store, small, tmp_path)
    plan = replace(small.plan(), name="again")
    store.create_study("again", {}, {}, plan.seed)
    Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    again = store.study("again")
    assert all(trial.reused for trial in store.trials(again.id))
    assert store.usage(again.id).items == 0


@dataclass(frozen=True)
class InVersion:
    """The same points as recipes of another version."""

    blueprint: Blueprint
    version: int

    def recipe(self, point: Point) -> Recipe:
        return self.blueprint.recipe(point).in_version(self.version)


def in_version(small: SmallStudy, version: int, name: str) -> Plan:
    plan = small.plan()
    starts = [
        replace(start, recipe=start.recipe.in_version(version)) for start in plan.starts
    ]
    blueprint = InVersion(plan.blueprint, version)
    return replace(plan, name=name, blueprint=blueprint, starts=tuple(starts))


@pytest.mark.parametrize(("first", "then"), [(1, 2), (2, 1)])
def test_outcomes_of_the_same_merges_in_another_version_are_reused(
    store: Store, tmp_path: Path, first: int, then: int
) -> None:
    small = SmallStudy(budget=Budget(trials=8))
    for version in (first, then):
        plan = in_version(small, version, f"version {version}")
        store.create_study(plan.name, {}, {}, plan.seed)
        Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    old, new = (store.study(f"version {version}") for version in (first, then))
    for one, other in zip(store.trials(old.id), store.trials(new.id), strict=True):
        assert other.reused
        assert other.scores == one.scores
        assert other.candidate.recipe.digest != one.candidate.recipe.digest
    assert store.usage(new.id).items == 0
    assert not store.check()
    store.delete(store.lease(old.id, this_process(), 30.0))
    assert not store.check()


def test_what_old_recipes_round_otherwise_is_scored_anew(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(trials=4))
    whole = OperatorPlan(
        "task_arithmetic",
        ("a", "b"),
        "base",
        (
            KnobPlan("weight", (("*", (Schedule((0.7,)),)),), per_input=True),
            KnobPlan("lambda", (("*", (Schedule((Coordinate("a"),)),)),)),
        ),
    )
    inputs = {name: Checkpoint(f"f{name}") for name in ("a", "b", "base")}
    made = MergeBlueprint(
        "a", "float32", inputs, 1, (whole,), "task_arithmetic", None, for_role
    )
    for version in (1, 2):
        plan = replace(
            in_version(small, version, f"version {version}"),
            blueprint=InVersion(made, version),
        )
        store.create_study(plan.name, {}, {}, plan.seed)
        Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    trials = store.trials(store.study("version 2").id)
    assert {trial.reused for trial in trials if trial.candidate.generation} == {False}


def test_two_points_that_are_one_merge_are_scored_once(
    store: Store, tmp_path: Path
) -> None:
    class Ratio:
        """Only the ratio of two weights counts."""

        def recipe(self, point: Point) -> Recipe:
            first = SmallStudy().blueprint.recipe({"a": 0.25, "b": 0.75})
            mean = replace(first.embed.roles[0][1], shared=(("normalize", True),))
            scaled = replace(
                mean, each=(("weight", tuple(point["a"] * w for w in (1.0, 3.0))),)
            )
            roles = (("*", scaled),)
            slots = (Slot(roles, first.slots[0].layers),)
            return replace(first, embed=Slot(roles), slots=slots, head=Slot(roles))

    small = SmallStudy(budget=Budget(trials=8))
    plan = replace(small.plan(), blueprint=Ratio())
    store.create_study(plan.name, {}, {}, plan.seed)
    Coordinator(plan, store, small.pool(tmp_path), this_process()).run()
    found = store.study(plan.name)
    trials = [t for t in store.trials(found.id) if t.candidate.generation]
    assert [trial.reused for trial in trials] == [False] + [True] * 7
    assert store.usage(found.id).items == 20


def test_an_item_budget_stops_between_trials_and_can_be_raised(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(budget=Budget(items=45))
    assert search(store, small, tmp_path) == "item budget used"
    used = store.usage(store.study("small").id).items
    assert used == 40, "a trial of 20 has no room"
    assert search(store, replace(small, budget=Budget(trials=4)), tmp_path)
    assert store.usage(store.study("small").id).trials == 4


def test_a_history_changed_by_hand_is_a_loud_error(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy(StrategySettings("cma", 4), budget=Budget(trials=4))
    search(store, small, tmp_path)
    other_seed = replace(small, seed=4, budget=Budget(trials=8))
    with pytest.raises(ReplayError, match="Study 'small', generation 1"):
        search(store, other_seed, tmp_path)


def test_a_study_another_coordinator_holds_is_refused(
    store: Store, tmp_path: Path
) -> None:
    study = store.create_study("small", {}, {}, 3)
    parent = replace(this_process(), pid=os.getppid(), started="")
    held = store.lease(study.id, parent, 30)
    with pytest.raises(StudyLockedError):
        search(store, SmallStudy(), tmp_path)
    store.release(held)


def test_a_metric_no_task_measures_is_refused_before_any_trial(
    store: Store, tmp_path: Path
) -> None:
    small = SmallStudy()
    plan = small.plan()
    wrong = replace(plan, objectives=(accuracy("z"),))
    store.create_study(plan.name, {}, {}, plan.seed)
    with pytest.raises(SpecError, match="z/acc is not measured"):
        Coordinator(wrong, store, small.pool(tmp_path), this_process()).run()
    assert {t.state for t in trials_of(store)} == {TrialState.PENDING}


class NeverStarted(InProcessPool):
    def start(self) -> None:
        raise AssertionError("there is nothing to do")


def test_a_finished_study_brings_no_worker_up(store: Store, tmp_path: Path) -> None:
    small = SmallStudy(budget=Budget(trials=4))
    search(store, small, tmp_path)
    setup = small.setup(tmp_path)
    pool = NeverStarted(lambda: Evaluator(setup))
    again = Coordinator(small.plan(), store, pool, this_process())
    assert again.run() == "trial budget used"
