import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.study import Constraint, Direction, Measure, Objective
from evomerge.core.trial import Precision
from evomerge.errors import EvomergeError
from evomerge.strategies.base import Told
from evomerge.strategies.ranks import losses, order, told, violation, violations

ACC = Objective("acc", Direction.MAXIMIZE, (Measure("t", "acc"),), (1.0,))
LEN = Objective("len", Direction.MINIMIZE, (Measure("t", "tokens"),), (1.0,))
SCORES = {"t/acc": 0.25, "t/tokens": 40.0}
POINT = {"x": 0.5}

number = st.floats(-1e6, 1e6)
result = st.one_of(
    st.just(Told({}, None)),
    st.builds(
        lambda loss, missed: Told({}, (loss,), (missed,)),
        number,
        st.one_of(st.just(-1.0), st.just(0.0), st.floats(1e-6, 10)),
    ),
)


def test_only_what_is_maximised_changes_its_sign():
    assert losses((ACC, LEN), SCORES) == (-0.25, 40.0)


def test_a_scored_trial_is_told_with_losses_and_violations():
    floor = Constraint(ACC, -0.02, relative_to="base")
    cap = Constraint(LEN, 50.0)
    found = told(POINT, (ACC,), (floor, cap), SCORES, {"base": {"t/acc": 0.3}})
    assert found.point == POINT
    assert found.losses == (-0.25,)
    assert found.violations == pytest.approx((0.03, -10.0))
    assert violation(found) == pytest.approx(0.03)


def test_a_failed_trial_is_told_without_losses():
    assert told(POINT, (ACC,), (), None, {}) == Told(POINT, None)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_number_that_is_not_finite_never_passes(bad):
    assert told(POINT, (ACC,), (), {"t/acc": bad}, {}) == Told(POINT, None)
    cap = Constraint(LEN, 50.0)
    scores = {"t/acc": 0.5, "t/tokens": bad}
    assert told(POINT, (ACC,), (cap,), scores, {}) == Told(POINT, None)


def test_a_constraint_on_a_baseline_without_scores_is_refused():
    floor = Constraint(ACC, 0.0, relative_to="base")
    with pytest.raises(EvomergeError, match="'base', which has no scores"):
        violations((floor,), SCORES, {"parent math": SCORES})


@given(st.lists(result, min_size=1, max_size=12))
def test_order_puts_feasible_first_then_infeasible_then_failed(results):
    values = order(results)
    if all(r.losses is None for r in results):
        assert values is None
        return
    assert all(math.isfinite(v) for v in values)

    def key(r):
        if r.losses is None:
            return (2, 0.0)
        missed = violation(r)
        return (1, missed) if missed > 0 else (0, r.losses[0])

    for a, value_a in zip(results, values, strict=True):
        for b, value_b in zip(results, values, strict=True):
            assert (key(a) < key(b)) == (value_a < value_b)


def test_failures_sit_just_above_the_worst_score():
    values = order([Told({}, (3.0,)), Told({}, None), Told({}, (1.0,))])
    assert values.tolist() == [3.0, math.nextafter(3.0, math.inf), 1.0]


def test_standard_errors_of_losses_are_told_where_all_are_known():
    known = Precision({"t/acc": 0.1, "t/tokens": 2.0}, 20, 20)
    found = told(POINT, (ACC, LEN), (), SCORES, {}, known)
    assert found.errors == (0.1, 2.0)
    some = Precision({"t/acc": 0.1}, 20, 20)
    assert told(POINT, (ACC, LEN), (), SCORES, {}, some).errors == ()
    assert told(POINT, (ACC, LEN), (), SCORES, {}).errors == ()


def test_on_some_of_the_items_a_bound_is_missed_only_beyond_its_error():
    floor, cap = Constraint(ACC, 0.0, relative_to="base"), Constraint(LEN, 39.0)
    errors = {"t/acc": 0.1, "t/tokens": 2.0}
    base = {"base": {"t/acc": 0.3}}
    whole, some = (
        told(POINT, (ACC,), (floor, cap), SCORES, base, Precision(errors, n, 20))
        for n in (20, 4)
    )
    assert whole.violations == pytest.approx((0.05, 1.0))
    spare = (0.84 * math.sqrt(2) * 0.1, 0.84 * 2.0)
    assert some.violations == pytest.approx((0.05 - spare[0], 1.0 - spare[1]))
    assert violation(some) == 0.0
