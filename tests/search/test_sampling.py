"""Searches whose generations answer a share of the items, and their finals."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import ClassVar

import pytest
from support.searched import by_hand

from evomerge.core.measures import Evidence, MeasureSource, ModelFacts, Need
from evomerge.core.meter import Meter
from evomerge.core.recipes.recipe import Input
from evomerge.core.sample import Sample
from evomerge.core.scoring_protocol import ItemRole, scores_of
from evomerge.core.study import (
    Budget,
    Constraint,
    Measure,
    Sampling,
    StrategySettings,
)
from evomerge.core.trial import Record, TrialState
from evomerge.errors import ReplayError, SpecError
from evomerge.search.coordinator import Coordinator
from evomerge.search.plan import Plan
from evomerge.search.required_items import RequiredItems, Requirements
from evomerge.search.sampling import Teller
from evomerge.store.base import Store
from evomerge.store.owner import this_process
from evomerge.store.sql import open_store
from evomerge.testing.search import SmallStudy, accuracy, decided

SAMPLED = SmallStudy(
    StrategySettings("cma", 6),
    Budget(trials=24),
    options={"items": 80},
    blocks=8,
    sampling=Sampling(0.25, finalists=3),
)


@pytest.fixture
def url(tmp_path: Path) -> str:
    return f"sqlite:///{tmp_path}/study.db"


@pytest.fixture
def store(url: str) -> Iterator[Store]:
    opened = open_store(url)
    yield opened
    opened.close()


def search(
    store: Store,
    cache: Path,
    small: SmallStudy = SAMPLED,
    plan: Plan | None = None,
    name: str = "small",
) -> str:
    plan = replace(plan or small.plan(), name=name)
    if name not in {study.name for study in store.studies()}:
        store.create_study(name, {}, {}, plan.seed)
    return Coordinator(plan, store, small.pool(cache), this_process()).run()


def by_generation(store: Store, name: str = "small") -> dict[int, list[Record]]:
    found = defaultdict(list)
    for record in store.history(store.study(name).id):
        found[record.generation].append(record)
    return dict(found)


def test_a_generation_answers_its_sample_and_the_finals_answer_all(
    store: Store, tmp_path: Path
) -> None:
    assert search(store, tmp_path) == "trial budget used"
    study = store.study("small")
    tasks = store.tasks(study.id) or ()
    generations = store.generations(study.id)
    assert [g.size for g in generations] == [2, 6, 6, 6, 6, 3]
    samples = [g.sample for g in generations]
    assert samples[0] is samples[-1] is None
    for number, drawn in enumerate(samples[1:-1], 1):
        assert drawn == Sample.draw(tasks, 0.25, study.seed, number)
    assert len(set(samples[1:-1])) == 4
    n_all = sum(len(t.manifest.ids_of(ItemRole.SEARCH)) for t in tasks)
    for number, records in by_generation(store).items():
        for record in records:
            assert record.precision is not None
            assert record.precision.of_items == n_all
            assert record.is_partial == (number in range(1, 5))
    assert store.usage(study.id).trials == 24
    assert list(store.check()) == []


def test_scores_are_means_over_the_sample_whatever_else_is_known(
    store: Store, tmp_path: Path
) -> None:
    whole = replace(SAMPLED, sampling=None)
    search(store, tmp_path, whole, name="other")
    search(store, tmp_path)
    apart = open_store(f"sqlite:///{tmp_path}/apart.db")
    search(apart, tmp_path)
    assert decided(store) == decided(apart)
    study = store.study("small")
    tasks = store.tasks(study.id) or ()
    generations = store.generations(study.id)
    first = by_generation(store)[1]
    assert any(record.reused for record in first)  # the other study knew them
    for record in first:
        known = {
            t.manifest.task: store.outcomes(record.recipe, t.protocol.digest)
            for t in tasks
        }
        sample = generations[1].sample
        assert sample is not None
        assert record.scores == scores_of(sample.of(tasks), known)
        assert record.scores != scores_of(tasks, known)
    apart.close()


def test_measures_of_whole_candidates_are_told_of_the_sample_alone(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Seen(MeasureSource):
        """How many answers it is told of."""

        metrics: ClassVar[Mapping[str, bool | None]] = {"items": True}
        needed: ClassVar[frozenset[Need]] = frozenset({Need.OUTCOMES})

        def values(
            self, metrics: Sequence[str], found: Evidence
        ) -> Mapping[str, float]:
            return {"items": sum(map(len, found.outcomes.values()))}

    def lookup(source: Input) -> ModelFacts:
        raise AssertionError(f"nobody asks for {source}")

    monkeypatch.setattr("evomerge.core.meter.SOURCES", {"seen": Seen()})
    search(store, tmp_path)
    study = store.study("small")
    tasks = store.tasks(study.id) or ()
    sample = store.generations(study.id)[1].sample
    assert sample is not None
    recipe = store.trials(study.id, 0)[0].candidate.recipe  # knows every item
    known = {
        t.manifest.task: dict(store.outcomes(recipe.digest, t.protocol.digest))
        for t in tasks
    }
    wanted = Measure("seen", "items", by_item=False)
    required = Requirements(Meter((wanted,), lookup))
    required.describe(tasks)
    for chosen, its in ((sample, sample.of(tasks)), (None, tasks)):
        required.choose(chosen)
        told = required.scores(recipe, known)["seen/items"]
        assert told == RequiredItems(its).n_items


def test_finals_are_the_most_promising_of_the_last_generations_each_merge_once(
    store: Store, tmp_path: Path
) -> None:
    search(store, tmp_path)
    found = by_generation(store)
    proposed = [r for g in range(1, 5) for r in found[g] if r.scores]
    best = sorted(proposed, key=lambda r: -(r.scores or {})["x/acc"])
    wanted = list(dict.fromkeys(r.recipe for r in best))[:3]
    assert [r.recipe for r in found[5]] == wanted
    assert [r.title for r in found[5]] == [f"final of {r.final_of}" for r in found[5]]
    for final in found[5]:
        (origin,) = (r for r in proposed if r.number == final.final_of)
        assert (origin.recipe, origin.point) == (final.recipe, final.point)


@pytest.mark.parametrize("strategy", ["cma", "catcma", "tpe", "random"])
def test_a_study_that_is_taken_up_anywhere_ends_as_if_nothing_had_happened(
    store: Store, tmp_path: Path, strategy: str
) -> None:
    small = replace(SAMPLED, strategy=StrategySettings(strategy, 6))
    plan = small.plan()
    search(store, tmp_path, small, plan)
    whole = decided(store)
    before = open_store(f"sqlite:///{tmp_path}/again.db")
    for n_trials in (7, 24):  # the first ends with finals, and the second goes on
        cut = replace(plan, budget=Budget(trials=n_trials))
        search(before, tmp_path, small, cut)
        seen = decided(before)
        assert search(before, tmp_path, small, cut) == "trial budget used"
        assert decided(before) == seen
    assert list(before.check()) == []
    assert before.usage(before.study("small").id).trials == 24
    proposed = [t for t in before.trials(1) if t.candidate.final_of is None]
    assert len(proposed) == 26
    assert len(whole) == 29
    before.close()


def test_a_changed_sample_is_a_loud_error(
    store: Store, url: str, tmp_path: Path
) -> None:
    search(store, tmp_path)
    by_hand(
        url,
        'update em_generation set sample = \'{"x":[0,1],"y":[0,1]}\' where number = 2',
    )
    with pytest.raises(ReplayError, match="generation 2: of task 'x' the blocks"):
        search(store, tmp_path)


def test_changed_finals_are_a_loud_error(
    store: Store, url: str, tmp_path: Path
) -> None:
    search(store, tmp_path)
    by_hand(
        url, "update em_trial set final_of = 3 where generation = 5 and position = 1"
    )
    with pytest.raises(ReplayError, match="generation 5: final 1 is recorded as that"):
        search(store, tmp_path)


def test_an_item_budget_keeps_room_for_the_finals_and_is_never_passed(
    store: Store, tmp_path: Path
) -> None:
    plan = replace(SAMPLED.plan(), budget=Budget(items=900))
    assert search(store, tmp_path, plan=plan) == "item budget used"
    found = by_generation(store)
    assert [r.state for r in found[max(found)]] == [TrialState.SCORED] * 3
    used = store.usage(store.study("small").id).items
    prices = 20, 3 * 60  # a candidate, the finals, where all tasks have 40 or so
    assert 900 - sum(prices) < used <= 900


def test_an_item_budget_that_pays_no_search_is_refused_with_the_least_that_does(
    store: Store, tmp_path: Path
) -> None:
    plan = replace(SAMPLED.plan(), budget=Budget(items=100))
    with pytest.raises(SpecError, match=r"expected budget\.items of at least \d+, got"):
        search(store, tmp_path, plan=plan)


def test_a_time_that_is_over_ends_the_search_and_finals_follow(
    store: Store, tmp_path: Path
) -> None:
    plan = replace(SAMPLED.plan(), budget=Budget(seconds=2.0))
    small = replace(SAMPLED, options={"items": 80, "sleep_s": 0.02})
    assert search(store, tmp_path, small, plan) == "time budget used"
    found = by_generation(store)
    assert found[max(found)][0].final_of is not None
    assert all(r.state.is_final for records in found.values() for r in records)


def test_a_bound_is_held_against_the_baseline_on_the_same_items(
    store: Store, tmp_path: Path
) -> None:
    goal = accuracy("x")
    plan = replace(
        SAMPLED.plan(),
        strategy=StrategySettings("random", 6),
        constraints=(Constraint(goal, 0.4, "parent b"),),
    )
    search(store, tmp_path, plan=plan)
    study = store.study("small")
    (parent,) = (r for r in by_generation(store)[0] if r.label == "parent b")
    assert parent.scores is not None
    teller = Teller(plan, store, study.id)
    tasks = store.tasks(study.id) or ()
    known = {
        t.manifest.task: store.outcomes(parent.recipe, t.protocol.digest) for t in tasks
    }
    n_spared = 0
    for generation in store.generations(study.id)[1:5]:
        sample = generation.sample
        assert sample is not None
        on_sample = scores_of(sample.of(tasks), known)["x/acc"]
        records = by_generation(store)[generation.number]
        told = teller.told(records, sample, {"parent b": parent.scores})
        for record, one in zip(records, told, strict=True):
            assert record.scores is not None
            assert record.precision is not None
            missed = on_sample + 0.4 - record.scores["x/acc"]
            spare = 0.84 * 2**0.5 * record.precision.errors["x/acc"]
            assert one.violations == (pytest.approx(missed - spare),)
            n_spared += 0 < missed < spare
            assert one.errors == (record.precision.errors["x/acc"],)
    assert n_spared
