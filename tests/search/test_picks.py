"""What is picked of a finished study for the next."""

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.study import Constraint
from evomerge.core.trial import Record, TrialState
from evomerge.search.selection import best_by, front_first
from evomerge.strategies.ranks import fronts
from evomerge.testing.search import accuracy

X, Y = accuracy("x"), accuracy("y")


def record(
    number: int, x: float | None, y: float = 0.0, label: str | None = None
) -> Record:
    scores = None if x is None else {"x/acc": x, "y/acc": y}
    return Record(
        number=number,
        generation=0 if label else 1,
        index=number,
        state=TrialState.FAILED if scores is None else TrialState.SCORED,
        recipe=f"recipe {number}",
        label=label,
        point=None,
        attempt=1,
        faults=0,
        worker=None,
        scores=scores,
        failure=None,
        seconds=None,
        reused=False,
    )


def numbers(records: Sequence[Record]) -> list[int]:
    return [one.number for one in records]


def test_the_best_is_the_first_of_equals_and_may_be_a_baseline() -> None:
    rows = [record(0, 0.5, label="math"), record(1, 0.5), record(2, 0.4)]
    best = best_by(X, rows, ())
    assert best is not None
    assert best.number == 0


def test_what_breaks_a_bound_or_failed_is_not_picked() -> None:
    rows = [record(0, 0.2, label="math"), record(1, 0.9, 0.1), record(2, None)]
    rows += [record(3, 0.6, 0.5)]
    bound = Constraint(Y, 0.3)
    best = best_by(X, rows, (bound,))
    assert best is not None
    assert best.number == 3
    assert numbers(front_first((X,), rows, (bound,))) == [3]
    assert best_by(X, rows[:3], (bound,)) is None
    assert front_first((X,), rows[:3], (bound,)) == ()


def test_a_bound_relative_to_a_baseline_is_kept() -> None:
    rows = [record(0, 0.5, 0.5, label="math"), record(1, 0.9, 0.3)]
    within = (Constraint(Y, -0.1, "math"),)
    assert numbers(front_first((X, Y), rows, within)) == [0]


def test_the_front_comes_first_and_its_ends_before_what_is_crowded() -> None:
    rows = [
        record(0, 0.5, 0.5),
        record(1, 0.55, 0.45),
        record(2, 0.9, 0.1),
        record(3, 0.1, 0.9),
        record(4, 0.05, 0.05),
        record(5, 0.4, 0.4),
    ]
    assert numbers(front_first((X, Y), rows, ()))[:2] == [2, 3]
    assert numbers(front_first((X, Y), rows, ()))[-2:] == [5, 4]


def test_a_recipe_that_came_twice_is_picked_once() -> None:
    twice = [record(0, 0.5), record(1, 0.5)]
    object.__setattr__(twice[1], "recipe", twice[0].recipe)
    assert numbers(front_first((X,), twice, ())) == [0]


SCORES = st.lists(
    st.tuples(st.integers(0, 4), st.integers(0, 4)), min_size=1, max_size=12
)


@given(scores=SCORES, order=st.randoms(use_true_random=False))
def test_the_pick_follows_fronts_and_no_order_of_reading(
    scores: list[tuple[int, int]], order: object
) -> None:
    rows = [record(i, x / 4, y / 4) for i, (x, y) in enumerate(scores)]
    picked = front_first((X, Y), rows, ())
    assert sorted(numbers(picked)) == list(range(len(rows)))
    ranks = fronts(-np.array(scores, dtype=float))
    along = [int(ranks[one.number]) for one in picked]
    assert along == sorted(along)
    shuffled = list(rows)
    order.shuffle(shuffled)  # type: ignore[attr-defined]
    assert front_first((X, Y), shuffled, ()) == picked


@pytest.mark.parametrize("objective", [X, Y])
def test_the_best_of_an_objective_is_the_largest(objective) -> None:
    rows = [record(0, 0.1, 0.9), record(1, 0.9, 0.1)]
    best = best_by(objective, rows, ())
    assert best is not None
    assert best.number == (1 if objective is X else 0)
