import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.intervals import Estimate
from evomerge.export.item_scores import ItemScores
from evomerge.export.markup import p_value
from evomerge.export.stats import FLOOR, Verdict, holm, verdict


def objective(direction=Direction.MAXIMIZE):
    return Objective("score", direction, (Measure("t0", "acc"),), (1.0,))


def test_verdict_knows_the_direction():
    lower = Estimate(-0.2, -0.3, -0.1)
    assert verdict(objective(Direction.MAXIMIZE), lower, 0.001) is Verdict.LOSS
    assert verdict(objective(Direction.MINIMIZE), lower, 0.001) is Verdict.GAIN


def test_verdict_uses_the_adjusted_p_value():
    gain = Estimate(0.2, 0.01, 0.3)
    assert verdict(objective(), gain, 0.03) is Verdict.GAIN
    assert verdict(objective(), gain, 0.09) is Verdict.NONE


def test_holm_matches_an_example_by_hand():
    # 0.01*4, then 0.015*3 = 0.045, then 0.03*2 = 0.06, then max(0.06, 0.04) = 0.06.
    assert holm([0.03, 0.01, 0.04, 0.015]) == pytest.approx((0.06, 0.04, 0.06, 0.045))


@given(st.lists(st.floats(0, 1), max_size=8))
def test_holm_keeps_order_and_never_lowers_a_p_value(p_values):
    adjusted = holm(p_values)
    assert all(p <= q <= 1 for p, q in zip(p_values, adjusted, strict=True))
    ranked = [adjusted[i] for i in np.argsort(p_values, kind="stable")]
    assert ranked == sorted(ranked)


def test_holm_refuses_what_is_no_p_value():
    with pytest.raises(ValueError, match="p-values"):
        holm([0.5, math.nan])


def test_outcomes_become_columns_in_the_order_of_their_ids():
    measures = (Measure("t", "acc"), Measure("t", "tokens"), Measure("t", "truncated"))
    wanted = Objective("o", Direction.MAXIMIZE, measures, (1.0, 1.0, 1.0))
    outcomes = [
        Outcome("b", {"acc": 1.0}, tokens=7, truncated=True),
        Outcome("a", {"acc": 0.0}, tokens=3),
    ]
    found = ItemScores.of(wanted, {"t": outcomes})
    assert found.items == {"t": ("a", "b")}
    assert found.columns["t/acc"].tolist() == [0.0, 1.0]
    assert found.columns["t/tokens"].tolist() == [3.0, 7.0]
    assert found.columns["t/truncated"].tolist() == [0.0, 1.0]


@pytest.mark.parametrize(
    ("outcomes", "message"),
    [
        ({}, "No outcomes of task 't0'"),
        ({"t0": [Outcome("a", {"f1": 1.0})]}, "no metric 'acc'"),
        ({"t0": [Outcome("a", {"acc": 1.0})] * 2}, "twice"),
        ({"t0": [Outcome("a", {"acc": math.nan})]}, "not finite"),
    ],
)
def test_unusable_outcomes_are_refused_with_the_reason(outcomes, message):
    with pytest.raises(ValueError, match=message):
        ItemScores.of(objective(), outcomes)


def test_a_p_value_at_the_floor_of_its_test_says_so():
    assert p_value(24 * FLOOR, FLOOR) == "≤ 0.0024"
    assert p_value(0.0024, 0.0004) == "0.0024"
