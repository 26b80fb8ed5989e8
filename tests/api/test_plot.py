"""The live front as a picture: marks stand where the values say."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import pytest
from support.watched import front_row, trial

from evomerge.api.results.plot import (
    BOTTOM,
    HEIGHT,
    LEFT,
    MOST_MARKS,
    RIGHT,
    TOP,
    WIDTH,
    plots,
)


def alone(number: int, value: float, **changes: Any) -> dict[str, Any]:
    return trial(number, values={"math": value}, **changes)


def test_two_objectives_are_drawn_against_each_other() -> None:
    rows = [trial(n, values={"x": x, "y": y}) for n, (x, y) in enumerate(POINTS)]
    front = [front_row(n, rows[n]["values"]) for n in (1, 2)]
    (plot,) = plots(rows, front)
    assert (plot.x.title, plot.y.title) == ("x", "y")
    assert [mark.words for mark in plot.marks] == ["trial 0: x 0, y 0"]
    left, right = plot.best
    assert left.x < right.x
    assert left.y < right.y, "y grows upwards, and pixels downwards"
    assert plot.line == f"{left.x:g},{left.y:g} {right.x:g},{right.y:g}"


POINTS = [(0.0, 0.0), (0.2, 1.0), (0.9, 0.4)]


def test_every_mark_and_tick_stands_inside_the_axes() -> None:
    rows = [trial(n) for n in range(40)]
    (plot,) = plots(rows, [front_row(3, rows[3]["values"])])
    for mark in (*plot.marks, *plot.best):
        assert LEFT < mark.x < WIDTH - RIGHT
        assert TOP < mark.y < HEIGHT - BOTTOM
    for place, _ in plot.x.ticks:
        assert LEFT <= place <= WIDTH - RIGHT
    assert 3 <= len(plot.x.ticks) <= 7


@pytest.mark.parametrize(
    ("direction", "numbers"), [("maximize", [0, 2]), ("minimize", [0, 1, 3])]
)
def test_one_objective_is_drawn_trial_by_trial_with_the_best_so_far(
    direction: str, numbers: list[int]
) -> None:
    values = [0.5, 0.25, 0.75, 0.125]
    rows = [alone(n, value) for n, value in enumerate(values)]
    front = [front_row(2, {"math": 0.75}, directions={"math": direction})]
    (plot,) = plots(rows, front)
    assert plot.x.title == "trial"
    assert [int(mark.words.split(":")[0].split()[1]) for mark in plot.best] == numbers
    corners = [tuple(map(float, pair.split(","))) for pair in plot.line.split()]
    assert len(corners) == 2 * len(numbers)
    assert all(a[0] == b[0] or a[1] == b[1] for a, b in pairwise(corners))


def test_four_objectives_make_three_pictures_without_a_line() -> None:
    values = {name: 0.1 * k for k, name in enumerate("abcd")}
    made = plots([trial(0, values=values)], [front_row(0, values)])
    titles = [(plot.x.title, plot.y.title) for plot in made]
    assert titles == [("a", "b"), ("b", "c"), ("c", "d")]
    assert {plot.line for plot in made} == {""}


def test_a_long_study_is_thinned_out_and_says_so() -> None:
    rows = [trial(n) for n in range(10_000)]
    (plot,) = plots(rows, [front_row(3, rows[3]["values"])])
    assert len(plot.marks) <= MOST_MARKS
    assert len(plot.marks) + len(plot.best) + plot.left_out == 10_000
    assert plot.marks[0].words.startswith("trial 9999:")


@pytest.mark.parametrize("value", [0.0, 5.0, -3e300, 1e-300])
def test_equal_values_have_a_picture_too(value: float) -> None:
    rows = [alone(0, value), alone(1, value)]
    (plot,) = plots(rows, [front_row(0, {"math": value})])
    assert all(math.isfinite(mark.y) for mark in (*plot.marks, *plot.best))


def test_what_is_not_scored_or_not_finite_is_not_drawn() -> None:
    assert plots([], []) == ()
    rows = [
        alone(0, 0.5),
        alone(1, math.nan),
        alone(2, math.inf),
        alone(3, 0.6, state="running"),
        trial(4, values={}, state="failed"),
    ]
    (plot,) = plots(rows, [front_row(0, {"math": 0.5})])
    assert len(plot.marks) + len(plot.best) == 1
