import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.item_scores import ItemScores
from evomerge.export.stats import (
    Comparison,
    Estimate,
    Verdict,
    compare,
    estimate,
    holm,
    verdict,
    wilson,
)


def objective(n_tasks=1, worst=0.0, direction=Direction.MAXIMIZE):
    measures = tuple(Measure(f"t{i}", "acc") for i in range(n_tasks))
    return Objective("score", direction, measures, (1.0,) * n_tasks, worst)


def scores(*columns):
    return ItemScores(
        {f"t{i}": tuple(map(str, range(len(c)))) for i, c in enumerate(columns)},
        {f"t{i}/acc": np.asarray(c, dtype=np.float64) for i, c in enumerate(columns)},
    )


def coins(rng, n, *shares):
    return scores(*((rng.random(n) < share).astype(float) for share in shares))


def test_equal_seeds_give_equal_comparisons():
    rng = np.random.default_rng(0)
    a, b = coins(rng, 60, 0.5, 0.3), coins(rng, 60, 0.4, 0.3)
    first, second = (
        compare(objective(2, 0.5), a, b, np.random.default_rng(3), n_resamples=500)
        for _ in range(2)
    )
    assert first == second


def test_swapping_the_candidates_mirrors_the_comparison():
    rng = np.random.default_rng(1)
    a, b = coins(rng, 80, 0.6), coins(rng, 80, 0.4)
    there = compare(objective(), a, b, np.random.default_rng(3))
    back = compare(objective(), b, a, np.random.default_rng(3))
    assert there.difference.value == pytest.approx(-back.difference.value)
    assert there.difference.low == pytest.approx(-back.difference.high)
    assert there.p_value == back.p_value


def test_a_candidate_does_not_differ_from_itself():
    a = coins(np.random.default_rng(2), 50, 0.5, 0.2)
    same = compare(objective(2, 0.5), a, a, np.random.default_rng(0), n_resamples=200)
    assert same.difference == Estimate(0.0, 0.0, 0.0)
    assert same.p_value == 1.0
    assert verdict(objective(2, 0.5), same) is Verdict.NONE


def test_values_are_those_of_the_objective():
    wanted = objective(2, 0.5)
    a, b = scores([1, 0, 1, 1], [0.5, 0.25]), scores([0, 0, 1, 0], [1.0, 1.0])
    found = compare(wanted, a, b, np.random.default_rng(0), n_resamples=100)
    assert found.mine == wanted.value({"t0/acc": 0.75, "t1/acc": 0.375})
    assert found.theirs == wanted.value({"t0/acc": 0.25, "t1/acc": 1.0})
    assert found.n_items == 6


@pytest.mark.parametrize("direction", Direction)
def test_resamples_follow_the_objective_with_its_weights_and_worst(direction):
    measures = (Measure("t0", "acc"), Measure("t1", "acc"))
    wanted = Objective("o", direction, measures, (3.0, 1.0), 0.5)
    constant = scores([0.25] * 5, [0.75] * 7)  # every resample has the same means
    found = estimate(wanted, constant, np.random.default_rng(0), n_resamples=50)
    exact = wanted.value({"t0/acc": 0.25, "t1/acc": 0.75})
    assert [found.value, found.low, found.high] == pytest.approx([exact] * 3)


def test_measures_of_one_task_are_drawn_with_the_same_items():
    measures = (Measure("t", "acc"), Measure("t", "tokens"))
    wanted = Objective("o", Direction.MAXIMIZE, measures, (1.0, 1.0))
    acc = np.arange(40.0)
    ids = tuple(map(str, range(40)))
    mirrored = ItemScores({"t": ids}, {"t/acc": acc, "t/tokens": -acc})
    found = estimate(wanted, mirrored, np.random.default_rng(0), n_resamples=100)
    assert (found.low, found.high) == (0.0, 0.0)  # the two cancel item by item


def test_pairing_makes_a_small_steady_gain_visible():
    rng = np.random.default_rng(5)
    hard = rng.random(200)
    mine, theirs = scores(hard + 0.02 + 0.01 * rng.random(200)), scores(hard)
    found = compare(objective(), mine, theirs, rng, n_resamples=2000)
    assert found.difference.low > 0.02
    assert verdict(objective(), found) is Verdict.GAIN
    alone = estimate(objective(), mine, rng, n_resamples=2000)
    assert alone.low < theirs.value(objective())


@pytest.mark.parametrize("worst", [0.0, 0.5])
def test_intervals_cover_the_truth_about_as_often_as_they_say(worst):
    rng = np.random.default_rng(11)
    wanted = objective(3, worst)
    shares = (0.7, 0.5, 0.4), (0.6, 0.5, 0.25)
    truth = [np.mean(s) + worst * min(s) for s in shares]
    hits = 0
    for _ in range(300):
        pair = [coins(rng, 100, *s) for s in shares]
        found = compare(wanted, *pair, rng, n_resamples=300).difference
        hits += found.low <= truth[0] - truth[1] <= found.high
    assert 0.91 <= hits / 300 <= 0.985


def test_equal_candidates_are_told_apart_about_as_rarely_as_promised():
    rng = np.random.default_rng(12)
    p_values = np.array(
        [
            compare(
                objective(2),
                coins(rng, 100, 0.5, 0.3),
                coins(rng, 100, 0.5, 0.3),
                rng,
                n_resamples=300,
            ).p_value
            for _ in range(400)
        ]
    )
    assert 0.02 <= (p_values < 0.05).mean() <= 0.085
    assert 0.4 <= (p_values < 0.5).mean() <= 0.6


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="different items"):
        compare(objective(), scores([1, 0]), scores([1, 0, 1]), np.random.default_rng())


def test_verdict_knows_the_direction():
    lower = Comparison(Estimate(-0.2, -0.3, -0.1), 0.001, 0.1, 0.3, 50)
    assert verdict(objective(direction=Direction.MAXIMIZE), lower) is Verdict.LOSS
    assert verdict(objective(direction=Direction.MINIMIZE), lower) is Verdict.GAIN


def test_verdict_uses_the_adjusted_p_value():
    gain = Comparison(Estimate(0.2, 0.01, 0.3), 0.03, 0.5, 0.3, 50)
    assert verdict(objective(), gain) is Verdict.GAIN
    assert verdict(objective(), gain, p_value=0.09) is Verdict.NONE


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


def test_wilson_matches_a_published_example():
    # Newcombe 1998, table I: 81 of 263.
    found = wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_of_nothing_right_still_has_width():
    found = wilson(0, 20)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.1611, abs=5e-5)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_encloses_the_share_and_mirrors(pair):
    k, n = pair
    found, mirror = wilson(k, n), wilson(n - k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirror.high)


def test_wilson_refuses_impossible_counts():
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)


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
