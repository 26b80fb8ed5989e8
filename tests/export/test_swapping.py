"""The swap test agrees with exact tests, and is right about nothing."""

import math

import numpy as np
import pytest

from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.item_scores import ItemScores
from evomerge.export.stats import swap_test

ACC = Objective("acc", Direction.MAXIMIZE, (Measure("t", "acc"),), (1.0,))
PAIR = Objective(
    "pair",
    Direction.MAXIMIZE,
    (Measure("t", "acc"), Measure("u", "acc")),
    (1.0, 1.0),
    worst=0.5,
)


def scores(**columns):
    arrays = {f"{task}/acc": np.array(c, dtype=float) for task, c in columns.items()}
    items = {t: tuple(map(str, range(len(c)))) for t, c in columns.items()}
    return ItemScores(items, arrays)


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize(("wins", "losses"), [(5, 0), (8, 1), (12, 4), (3, 3)])
def test_one_measure_of_right_and_wrong_gives_the_exact_sign_test(wins, losses):
    same = [1.0] * 90
    a = np.array([1.0] * wins + [0.0] * losses + same)
    b = np.array([0.0] * wins + [1.0] * losses + same)
    p = swap_test(ACC, scores(t=a), scores(t=b), rng())
    n, fewer = wins + losses, min(wins, losses)
    exact = 2 * sum(math.comb(n, k) for k in range(fewer + 1)) / 2**n
    assert p == pytest.approx(min(1.0, exact), abs=0.015)


def test_equal_candidates_do_not_differ():
    column = [0.1, 0.7, 0.3]
    assert swap_test(ACC, scores(t=column), scores(t=column), rng()) == 1.0


def test_a_large_difference_gives_the_smallest_p():
    a, b = scores(t=[1.0] * 60, u=[1.0] * 60), scores(t=[0.0] * 60, u=[0.0] * 60)
    assert swap_test(PAIR, a, b, rng(), 999) == 1 / 1000
    assert swap_test(PAIR, b, a, rng(), 999) == 1 / 1000


@pytest.mark.parametrize("objective", [ACC, PAIR])
def test_where_nothing_differs_p_is_uniform(objective):
    """At most about 5 in 100 null comparisons fall below 0.05."""
    generator = rng(1)
    small = 0
    for _ in range(400):
        a, b = (
            scores(
                t=generator.integers(2, size=30),
                u=generator.integers(2, size=30),
            )
            for _ in range(2)
        )
        a = ItemScores({m.task: a.items[m.task] for m in objective.measures}, a.columns)
        b = ItemScores(a.items, b.columns)
        small += swap_test(objective, a, b, generator, 199) <= 0.05
    assert small <= 400 * 0.05 + 3 * np.sqrt(400 * 0.05 * 0.95)


def test_the_value_is_the_objectives_own():
    """The unswapped difference is one of the swapped ones, so p counts it as large."""
    a, b = scores(t=[1.0, 0.0], u=[0.5, 0.5]), scores(t=[0.0, 0.0], u=[0.5, 0.5])
    assert swap_test(PAIR, a, b, rng()) == 1.0  # one item differs: either way round


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="different items"):
        swap_test(ACC, scores(t=[1.0]), scores(t=[1.0, 0.0]), rng())
