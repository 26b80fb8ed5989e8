"""What `check` says that items can show is what export's test then finds."""

import numpy as np
import pytest

from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.item_scores import ItemScores
from evomerge.export.power import ALPHA, DISCORDANT, POWER, smallest_difference
from evomerge.export.stats import swap_test

N_DRAWS = 400


def scores(columns: dict[str, np.ndarray]) -> ItemScores:
    ids = {name: tuple(map(str, range(len(c)))) for name, c in columns.items()}
    return ItemScores(ids, {f"{name}/acc": c for name, c in columns.items()})


def found(sizes: dict[str, int], difference: float, n_tests: int) -> float:
    """Share of made-up comparisons in which the test of export finds a difference."""
    rng = np.random.default_rng(0)
    measures = tuple(Measure(name, "acc") for name in sizes)
    goal = Objective("all", Direction.MAXIMIZE, measures, (1.0,) * len(sizes))
    psi = max(DISCORDANT, difference)
    n_found = 0
    for _ in range(N_DRAWS):
        mine, theirs = {}, {}
        for name, n in sizes.items():
            kind = rng.random(n)
            is_win, is_loss = (
                kind < (psi + difference) / 2,
                kind > 1 - (psi - difference) / 2,
            )
            both = (rng.random(n) < 0.5) & ~is_win & ~is_loss
            mine[name] = (is_win | both).astype(float)
            theirs[name] = (is_loss | both).astype(float)
        p = swap_test(goal, scores(mine), scores(theirs), rng, n_swaps=1000)
        n_found += p < ALPHA / n_tests
    return n_found / N_DRAWS


@pytest.mark.parametrize(
    ("sizes", "n_tests"),
    [({"a": 200}, 1), ({"a": 400}, 4), ({"a": 120, "b": 400}, 3), ({"a": 60}, 2)],
)
def test_the_difference_is_found_as_often_as_promised(
    sizes: dict[str, int], n_tests: int
) -> None:
    tasks = [(1 / len(sizes), n) for n in sizes.values()]
    difference = smallest_difference(tasks, n_tests)
    assert difference is not None
    assert found(sizes, difference, n_tests) == pytest.approx(POWER, abs=0.07)


def test_more_items_show_less_and_more_comparisons_need_more() -> None:
    def shown(n_items: int, n_tests: int) -> float:
        found = smallest_difference([(1.0, n_items)], n_tests)
        assert found is not None
        return found

    by_items = [shown(n, 4) for n in (20, 50, 200, 1000, 10_000)]
    assert by_items == sorted(by_items, reverse=True)
    by_tests = [shown(200, n) for n in (1, 2, 10, 100)]
    assert by_tests == sorted(by_tests)


def test_a_handful_of_items_shows_nothing() -> None:
    assert smallest_difference([(1.0, 5)], 1) is None
    assert smallest_difference([(1.0, 0)], 1) is None
    assert smallest_difference([(0.5, 400), (0.5, 0)], 1) is None
