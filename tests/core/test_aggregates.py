"""Figures that are no mean over items, equal to those of lm-eval."""

import math

import numpy as np
import pytest

from evomerge.core.aggregates import (
    AGGREGATES,
    is_part,
    parts_named,
    score_of,
)
from evomerge.scoring.harness.internals import aggregation_function

DRAWN = np.random.default_rng(3)
ITEMS = {
    "mean": [(float(x),) for x in DRAWN.random(40)],
    "perplexity": [(-float(x),) for x in DRAWN.random(40)],
    "weighted_perplexity": [(-x, w) for x, w in DRAWN.random((40, 2)) + 1.0],
    "bits_per_byte": [(-x, w) for x, w in DRAWN.random((40, 2)) + 1.0],
    "f1": [tuple(map(float, pair)) for pair in DRAWN.integers(2, size=(40, 2))],
    "matthews_corrcoef": [
        tuple(map(float, pair)) for pair in DRAWN.integers(4, size=(40, 2))
    ],
}


def by_lm_eval(how: str, items: list[tuple[float, ...]]) -> float:
    alone = AGGREGATES[how].n_parts == 1
    return float(aggregation_function(how)([one[0] if alone else one for one in items]))


@pytest.mark.parametrize("how", AGGREGATES)
def test_all_together_are_what_lm_eval_makes_of_them(how: str) -> None:
    outcomes = [parts_named("m", how, one) for one in ITEMS[how]]
    assert all(is_part(name) for one in outcomes for name in one)
    wanted = by_lm_eval(how, ITEMS[how])
    assert score_of("m", outcomes) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("how", AGGREGATES)
def test_many_resamples_at_once_are_what_each_is_alone(how: str) -> None:
    table = np.array(ITEMS[how]).T
    drawn = np.random.default_rng(0).integers(40, size=(7, 40))
    together = AGGREGATES[how].of(table.take(drawn, axis=-1))
    alone = [AGGREGATES[how].of(table[:, one]) for one in drawn]
    assert together == pytest.approx(np.array(alone), abs=1e-12)


@pytest.mark.parametrize("how", ["f1", "matthews_corrcoef"])
def test_answers_that_are_always_the_same_give_nothing(how: str) -> None:
    outcomes = [parts_named("m", how, (gold, 0.0)) for gold in (1.0, 0.0, 1.0)]
    assert score_of("m", outcomes) == 0.0


@pytest.mark.parametrize(
    ("how", "parts", "says"),
    [
        ("f1", (1.0, 2.0), "answers 0 and 1"),
        ("f1", (1.0,), "expected 2 numbers"),
        ("perplexity", (math.nan,), "expected 1 numbers"),
    ],
)
def test_parts_that_cannot_be_put_together_are_refused(
    how: str, parts: tuple[float, ...], says: str
) -> None:
    with pytest.raises(ValueError, match=says):
        parts_named("m", how, parts)


def test_a_mean_is_exact_and_a_metric_that_an_item_lacks_is_an_error() -> None:
    assert score_of("m", [{"m": 0.1}] * 10) == 0.1
    with pytest.raises(KeyError):
        score_of("m", [{"n": 1.0}])
