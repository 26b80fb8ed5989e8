"""Intervals hold the truth as often as they say, and are what can be worked out."""

import runpy
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.study import Direction, Measure, Objective
from evomerge.export.intervals import difference, estimate, wilson
from evomerge.export.item_scores import ItemScores
from evomerge.export.stats import Verdict, verdict

BENCHMARK = runpy.run_path(
    str(Path(__file__).parents[2] / "benchmarks" / "interval_coverage.py")
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


def rng(seed=0):
    return np.random.default_rng(seed)


def test_equal_seeds_give_equal_intervals():
    a, b = coins(rng(), 60, 0.5, 0.3), coins(rng(1), 60, 0.4, 0.3)
    first, second = (difference(objective(2, 0.5), a, b, rng(3)) for _ in range(2))
    assert first == second


def test_swapping_the_candidates_mirrors_the_difference():
    a, b = coins(rng(1), 80, 0.6, 0.6), coins(rng(2), 80, 0.4, 0.7)
    there = difference(objective(2, 0.5), a, b, rng(3))
    back = difference(objective(2, 0.5), b, a, rng(3))
    assert there.value == pytest.approx(-back.value)
    assert there.low == pytest.approx(-back.high)


def test_a_candidate_does_not_differ_from_itself_as_far_as_its_items_tell():
    a = coins(rng(2), 50, 0.5, 0.2)
    same = difference(objective(2, 0.5), a, a, rng())
    assert same.value == 0.0
    assert same.low == -same.high < 0.0  # at other items it may
    assert verdict(objective(2, 0.5), same, 1.0) is Verdict.NONE


def test_values_are_those_of_the_objective():
    wanted = objective(2, 0.5)
    a, b = scores([1, 0, 1, 1], [0.5, 0.25]), scores([0, 0, 1, 0], [1.0, 1.0])
    means = ({"t0/acc": 0.75, "t1/acc": 0.375}, {"t0/acc": 0.25, "t1/acc": 1.0})
    mine, theirs = (wanted.value(one) for one in means)
    assert estimate(wanted, a, rng()).value == mine
    assert difference(wanted, a, b, rng()).value == pytest.approx(mine - theirs)


@pytest.mark.parametrize("direction", Direction)
def test_what_does_not_vary_has_no_width(direction):
    measures = (Measure("t0", "acc"), Measure("t1", "acc"))
    wanted = Objective("o", direction, measures, (3.0, 1.0), 0.5)
    found = estimate(wanted, scores([0.25] * 5, [0.75] * 7), rng())
    exact = wanted.value({"t0/acc": 0.25, "t1/acc": 0.75})
    assert [found.value, found.low, found.high] == pytest.approx([exact] * 3)


def test_measures_of_one_task_cancel_item_by_item():
    measures = (Measure("t", "acc"), Measure("t", "tokens"))
    wanted = Objective("o", Direction.MAXIMIZE, measures, (1.0, 1.0))
    acc = np.arange(40.0)
    ids = tuple(map(str, range(40)))
    mirrored = ItemScores({"t": ids}, {"t/acc": acc, "t/tokens": -acc})
    found = estimate(wanted, mirrored, rng())
    assert (found.low, found.high) == (0.0, 0.0)


def test_pairing_makes_a_small_steady_gain_visible():
    hard = rng(5).random(200)
    mine, theirs = scores(hard + 0.02 + 0.01 * rng(6).random(200)), scores(hard)
    found = difference(objective(), mine, theirs, rng())
    assert found.low > 0.02
    assert verdict(objective(), found, 0.001) is Verdict.GAIN
    assert estimate(objective(), mine, rng()).low < theirs.value(objective())


def test_a_mean_of_real_values_has_students_interval():
    column = rng(7).normal(size=9)
    found = estimate(objective(), scores(column), rng())
    half = 2.306 * column.std(ddof=1) / 3  # t of 8 degrees of freedom
    expected = [column.mean() - half, column.mean() + half]
    assert [found.low, found.high] == pytest.approx(expected, rel=1e-3)


def test_pairs_of_right_and_wrong_have_the_interval_of_bonett_and_price():
    # 12 won, 4 lost of 60: shares of 13 and 5 of 62, and t of 59 degrees of freedom.
    a, b = [1] * 12 + [0] * 4 + [1] * 44, [0] * 12 + [1] * 4 + [1] * 44
    found = difference(objective(), scores(a), scores(b), rng())
    won, lost, t = 13 / 62, 5 / 62, 2.0010
    half = t * np.sqrt((won + lost - (won - lost) ** 2) / 62)
    assert found.low == pytest.approx(won - lost - half, abs=1e-4)
    assert found.high == pytest.approx(won - lost + half, abs=1e-4)


@pytest.mark.parametrize(
    ("situation", "n_studies"),
    [
        ("mean of four", 800),
        ("worst: four tied, 100 items", 250),
        ("worst: four tied at 10 %", 250),
        ("difference: 5 % of the items apart", 600),
        ("difference: tied, the other not", 200),
        ("real values: one task, 30 items", 800),
    ],
)
def test_intervals_hold_the_truth_as_often_as_they_say(situation, n_studies):
    """93 to 97 %, with three standard errors of so few simulated studies."""
    one = BENCHMARK["coverage"](
        BENCHMARK["SITUATIONS"][situation].study, n_studies, seed=1
    )
    error = 3 * np.sqrt(0.05 * 0.95 / n_studies)
    assert 0.93 - error <= one.held <= 0.97 + error


def test_other_items_are_refused():
    with pytest.raises(ValueError, match="different items"):
        difference(objective(), scores([1, 0]), scores([1, 0, 1]), rng())


def test_wilson_matches_a_published_example():
    # Newcombe 1998, table I: 81 of 263.
    found = wilson(81, 263)
    assert (found.low, found.high) == pytest.approx((0.2553, 0.3662), abs=5e-5)


def test_wilson_of_nothing_right_still_has_width():
    found = wilson(0, 20)
    assert (found.value, found.low) == (0.0, 0.0)
    assert found.high == pytest.approx(0.1611, abs=5e-5)


def test_one_right_answer_leaves_room_for_a_rate_at_which_it_is_rare():
    # P(one or more) = 0.05 at a mean of -ln 0.95.
    assert wilson(1, 100).low == pytest.approx(-np.log(0.95) / 100, rel=1e-6)


@given(st.integers(1, 500).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_wilson_encloses_the_share_and_mirrors(pair):
    k, n = pair
    found, mirror = wilson(k, n), wilson(n - k, n)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert found.low == pytest.approx(1 - mirror.high)


def test_wilson_refuses_impossible_counts():
    with pytest.raises(ValueError, match="successes"):
        wilson(3, 2)
