import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.study import (
    Constraint,
    Direction,
    Measure,
    Objective,
    objective_values,
)

A, B = Measure("arith", "acc"), Measure("mc", "acc")
SCORES = {"arith/acc": 0.2, "mc/acc": 0.8, "arith/tokens": 50.0}
ONE = Objective("acc", Direction.MAXIMIZE, (A,), (1.0,))
COST = Objective("cost", Direction.MINIMIZE, (Measure("arith", "tokens"),), (1.0,))


def test_one_measure_is_itself():
    assert ONE.value(SCORES) == 0.2


def test_several_measures_give_their_weighted_mean():
    mean = Objective("m", Direction.MAXIMIZE, (A, B), (1.0, 3.0))
    assert mean.value(SCORES) == pytest.approx((0.2 + 3 * 0.8) / 4)


def test_worst_adds_the_least_where_more_is_better_and_the_most_where_less_is():
    up = Objective("m", Direction.MAXIMIZE, (A, B), (1.0, 1.0), worst=0.5)
    down = Objective("m", Direction.MINIMIZE, (A, B), (1.0, 1.0), worst=0.5)
    assert up.value(SCORES) == pytest.approx(0.5 + 0.5 * 0.2)
    assert down.value(SCORES) == pytest.approx(0.5 + 0.5 * 0.8)


@given(st.lists(st.floats(0, 1), min_size=2, max_size=5), st.randoms())
def test_the_order_of_measures_does_not_matter(values, random):
    measures = [Measure(f"t{i}", "acc") for i in range(len(values))]
    scores = {str(m): v for m, v in zip(measures, values, strict=True)}
    weights = dict(zip(measures, range(1, len(values) + 1), strict=True))
    shuffled = list(measures)
    random.shuffle(shuffled)

    def value(order):
        picked = tuple(float(weights[m]) for m in order)
        return Objective("o", Direction.MAXIMIZE, tuple(order), picked, 0.5).value(
            scores
        )

    assert value(measures) == value(shuffled)


def test_a_missing_measure_is_not_taken_for_zero():
    with pytest.raises(KeyError):
        ONE.value({"mc/acc": 1.0})


def test_values_come_in_the_order_of_the_objectives():
    assert objective_values((COST, ONE), SCORES) == (50.0, 0.2)


@pytest.mark.parametrize(
    ("constraint", "expected"),
    [
        (Constraint(ONE, 0.15), -0.05),
        (Constraint(ONE, 0.3), 0.1),
        (Constraint(COST, 60.0), -10.0),
        (Constraint(COST, 45.0), 5.0),
        # "At most two points below the base".
        (Constraint(ONE, -0.02, relative_to="base"), 0.28 - 0.2),
        (Constraint(COST, 10.0, relative_to="base"), 50.0 - 55.0),
    ],
)
def test_a_violation_is_the_distance_to_the_bound(constraint, expected):
    baselines = {"base": {"arith/acc": 0.3, "arith/tokens": 45.0}}
    assert constraint.violation(SCORES, baselines) == pytest.approx(expected)
