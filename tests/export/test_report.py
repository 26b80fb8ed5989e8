"""Baselines on held-out items: paired, corrected, and never flattered."""

import numpy as np
import pytest

from evomerge.core.scoring_protocol import Outcome
from evomerge.core.study import Direction, Measure, Objective
from evomerge.errors import ExportError
from evomerge.export.report import Contender, baseline_tables, p_values
from evomerge.export.stats import Verdict

ACC = Objective("accuracy", Direction.MAXIMIZE, (Measure("t", "acc"),), (1.0,))
TOKENS = Objective("length", Direction.MINIMIZE, (Measure("t", "tokens"),), (1.0,))
BALANCED = Objective(
    "balanced",
    Direction.MAXIMIZE,
    (Measure("t", "acc"), Measure("u", "acc")),
    (1.0, 1.0),
    worst=0.5,
)


def contender(label, share, n=200, tokens=10, truncated=0, offset=0):
    """Answer the first ``share`` of the items right, in two tasks."""
    right = round(share * n)

    def outcomes(task):
        return [
            Outcome(
                f"{task}{i}",
                {"acc": float((i - offset) % n < right)},
                tokens + i % 3,
                i < truncated,
            )
            for i in range(n)
        ]

    return Contender(label, {"t": outcomes("t"), "u": outcomes("u")})


def tables(objectives, chosen, baselines, **options):
    rng = np.random.default_rng(0)
    return baseline_tables(objectives, chosen, baselines, rng, **options)


def test_a_clear_gain_is_called_one_and_a_loss_a_loss():
    (table,) = tables(
        [ACC],
        contender("mine", 0.6),
        [contender("worse", 0.3), contender("better", 0.9), contender("twin", 0.6)],
    )
    chosen, worse, better, twin = table.rows
    assert chosen.against is None
    assert table.chosen is chosen
    assert worse.against.verdict is Verdict.GAIN
    assert worse.against.difference.value == pytest.approx(0.3)
    assert 0 < worse.against.difference.low < 0.3 < worse.against.difference.high
    assert better.against.verdict is Verdict.LOSS
    assert twin.against.verdict is Verdict.NONE
    assert twin.against.difference.value == 0
    assert table.n_items == 200


def test_smaller_is_better_where_the_objective_says_so():
    (table,) = tables(
        [TOKENS], contender("short", 0.5, tokens=5), [contender("long", 0.5)]
    )
    assert table.rows[1].against.difference.value == pytest.approx(-5)
    assert table.rows[1].against.verdict is Verdict.GAIN


def test_a_balanced_objective_counts_its_worst_measure():
    (table,) = tables([BALANCED], contender("mine", 0.5), [contender("base", 0.2)])
    assert table.chosen.value.value == pytest.approx(0.75)
    assert set(table.chosen.means) == {"t/acc", "u/acc"}
    assert table.n_items == 400


def test_many_comparisons_cost_certainty():
    mine, baseline = contender("mine", 0.56), contender("baseline", 0.5)
    (alone,) = tables([ACC], mine, [baseline])
    raw = alone.rows[1].against
    assert raw.adjusted == raw.p_value
    (among,) = tables([ACC], mine, [baseline], earlier_p_values=[0.5] * 9)
    assert among.rows[1].against.p_value == raw.p_value
    assert among.rows[1].against.adjusted == pytest.approx(min(1, 10 * raw.p_value))
    assert p_values([among]) == (raw.p_value,)


def test_objectives_form_one_family():
    both = tables([ACC, TOKENS], contender("mine", 0.6), [contender("r", 0.3)])
    raw = p_values(both)
    assert len(raw) == 2
    adjusted = [table.rows[1].against.adjusted for table in both]
    assert min(adjusted) == pytest.approx(2 * min(raw))


def test_few_telling_items_are_not_enough():
    """Five wins of five cannot be significant at 0.05: the exact p is 0.0625."""
    (table,) = tables([ACC], contender("mine", 1.0, n=5), [contender("r", 0.0, n=5)])
    assert table.rows[1].against.p_value == pytest.approx(0.0625, abs=0.01)
    assert table.rows[1].against.verdict is Verdict.NONE


def test_an_interval_stays_open_where_every_answer_agrees():
    (table,) = tables([ACC], contender("mine", 1.0, n=20), [])
    value = table.chosen.value
    assert value.value == value.high == 1.0
    assert value.low < 0.9


def test_truncated_answers_are_counted():
    (table,) = tables(
        [ACC], contender("mine", 0.5, truncated=20), [contender("r", 0.5)]
    )
    assert [row.truncated.value for row in table.rows] == [0.1, 0.0]


def test_the_same_generator_gives_the_same_tables():
    args = ([ACC, BALANCED], contender("mine", 0.5), [contender("r", 0.45)])
    assert tables(*args) == tables(*args)


def test_other_items_are_refused_by_name():
    with pytest.raises(ExportError, match=r"'r'.*'mine'"):
        tables([ACC], contender("mine", 0.5), [contender("r", 0.5, n=199)])


def test_a_missing_metric_or_task_is_refused_by_name():
    other = Objective("o", Direction.MAXIMIZE, (Measure("t", "bleu"),), (1.0,))
    with pytest.raises(ExportError, match=r"'mine'.*bleu"):
        tables([other], contender("mine", 0.5), [])
    with pytest.raises(ExportError, match=r"'empty'"):
        tables([ACC], contender("mine", 0.5), [Contender("empty", {})])


def test_equal_labels_are_refused():
    with pytest.raises(ExportError, match="different labels"):
        tables([ACC], contender("x", 0.5), [contender("x", 0.4)])


def test_the_winners_gap_is_less_what_items_are_harder_for_all():
    mine = contender("mine", 0.6)
    others = [contender("math", 0.5), contender("ja", 0.4)]
    searched = {"mine": {"t/acc": 0.7}, "math": {"t/acc": 0.53}, "ja": {"t/acc": 0.41}}
    rng = np.random.default_rng(0)
    (table,) = baseline_tables([ACC], mine, others, rng, searched=searched)
    assert table.gap == pytest.approx(0.1 - (0.03 + 0.01) / 2)


def test_there_is_no_gap_where_a_part_of_it_is_not_known():
    mine, other = contender("mine", 0.6), contender("math", 0.5)
    rng = np.random.default_rng(0)
    (table,) = baseline_tables(
        [ACC], mine, [other], rng, searched={"mine": {"t/acc": 0.7}}
    )
    assert table.gap is None
