"""Held-out results of measures that are no mean over items."""

import numpy as np
import pytest

from evomerge.core.aggregates import parts_named
from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.intervals import difference, estimate
from evomerge.export.item_scores import ItemScores
from evomerge.export.stats import best_of_many, swap_test

F1 = Objective("f1", Direction.MAXIMIZE, (Measure("t", "f1"),), (1.0,))
BOTH = Objective(
    "both", Direction.MAXIMIZE, (Measure("t", "f1"), Measure("t", "acc")), (1.0, 1.0)
)


def answers(right: float, n: int = 200, seed: int = 0) -> ItemScores:
    """Answers to questions of which a quarter are true, right so often."""
    rng = np.random.default_rng(seed)
    gold = rng.random(n) < 0.25
    told = np.where(rng.random(n) < right, gold, ~gold)
    outcomes = [
        Outcome(
            f"{i:03}",
            parts_named("f1", "f1", (float(g), float(t))) | {"acc": float(g == t)},
        )
        for i, (g, t) in enumerate(zip(gold, told, strict=True))
    ]
    return ItemScores.of(BOTH, {"t": outcomes})


def f1(right: float) -> float:
    """What so many right answers give in the long run."""
    return 2 * 0.25 * right / (0.25 + 0.25 * right + 0.75 * (1 - right))


def test_the_value_is_that_of_all_items_together() -> None:
    assert answers(1.0).value(F1) == 1.0
    assert answers(0.8, 40_000).value(F1) == pytest.approx(f1(0.8), abs=0.01)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    held = 0
    for seed in range(60):
        scores = answers(0.8, seed=seed)
        found = estimate(F1, scores, np.random.default_rng(seed), n_resamples=400)
        assert found.low < found.value < found.high
        held += found.low <= f1(0.8) <= found.high
    assert 53 <= held <= 60


def test_a_difference_is_paired_and_its_chance_is_found_by_swapping() -> None:
    good, same, bad = answers(0.9), answers(0.9), answers(0.6, seed=0)
    rng = np.random.default_rng(0)
    apart = difference(F1, good, bad, rng)
    assert 0.0 < apart.low < apart.value < apart.high
    assert swap_test(F1, good, bad, rng, n_swaps=500) < 0.01
    assert swap_test(F1, good, same, rng, n_swaps=500) == 1.0
    first, second = best_of_many(F1, (good, same), bad, rng, n_swaps=500)
    assert first == second < 0.01


def test_it_goes_into_a_mean_of_measures_beside_others() -> None:
    scores = answers(0.8)
    found = estimate(BOTH, scores, np.random.default_rng(0))
    alone = scores.value(F1), float(scores.columns["t/acc"].mean())
    assert found.value == pytest.approx(sum(alone) / 2)
    assert found.low < found.value < found.high
