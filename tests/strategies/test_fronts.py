import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from evomerge.strategies.ranks import crowding, front, fronts
from evomerge.testing.strategy_spaces import dominated_area

whole = st.integers(0, 4).map(float)
tables = st.tuples(st.integers(0, 12), st.integers(1, 4)).flatmap(
    lambda shape: arrays(np.float64, shape, elements=whole)
)


def dominates(a, b):
    return bool((a <= b).all() and (a < b).any())


@given(tables)
def test_front_holds_exactly_what_nothing_dominates(values):
    expected = [not any(dominates(b, a) for b in values) for a in values]
    assert front(values).tolist() == expected


@given(tables, st.randoms())
def test_front_does_not_depend_on_order(values, random):
    order = list(range(len(values)))
    random.shuffle(order)
    assert front(values[order]).tolist() == front(values)[order].tolist()


def test_duplicates_share_their_fate():
    values = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0], [1.0, 1.0], [1.0, 1.0]])
    assert front(values).tolist() == [True, True, True, False, False]


@given(tables)
def test_fronts_are_peeled_one_after_another(values):
    ranks = fronts(values)
    for rank in range(int(ranks.max(initial=-1)) + 1):
        rest = ranks >= rank
        assert (front(values[rest]) == (ranks[rest] == rank)).all()


def test_crowding_matches_an_example_by_hand():
    values = np.array([[0.0, 4.0], [1.0, 2.0], [3.0, 1.0], [4.0, 0.0]])
    inf = np.inf
    assert crowding(values).tolist() == [inf, 3 / 4 + 3 / 4, 3 / 4 + 2 / 4, inf]


def test_crowding_ignores_a_loss_that_never_varies():
    values = np.array([[0.0, 1.0], [1.0, 1.0], [3.0, 1.0]])
    assert crowding(values).tolist() == [np.inf, 1.0, np.inf]
    assert crowding(np.ones((3, 2))).tolist() == [0.0, 0.0, 0.0]


@given(arrays(np.float64, st.tuples(st.integers(0, 12), st.just(2)), elements=whole))
def test_the_dominated_area_counts_the_dominated_cells(values):
    cells = itertools.product(range(5), repeat=2)
    expected = sum(any((row <= cell).all() for row in values) for cell in cells)
    assert dominated_area(values, (5.0, 5.0)) == pytest.approx(expected)


def test_points_beyond_the_reference_add_nothing():
    values = np.array([[0.0, 0.0], [-5.0, 2.0]])
    assert dominated_area(values, (1.0, 1.0)) == 1.0


@pytest.mark.parametrize("measure", [front, fronts, crowding])
def test_nan_is_refused_and_named(measure):
    with pytest.raises(ValueError, match="Row 1"):
        measure(np.array([[0.0, 1.0], [np.nan, 0.0]]))


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match="shape"):
        front(np.zeros(3))


def test_front_of_ten_thousand_points_is_quick():
    values = np.random.default_rng(0).random((10_000, 3))
    mask = front(values)
    assert not any(dominates(b, a) for a in values[mask] for b in values[:200])
