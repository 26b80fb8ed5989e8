from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.space import (
    AllOf,
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
)
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Told
from evomerge.strategies.coordinates import Mixture
from evomerge.strategies.registry import make_strategy
from evomerge.testing.strategy_spaces import BEST_STACK, SPACES, STACK, dominated_area

LINE = SearchSpace(tuple(FloatAxis(f"x{i}", -1.0, 1.0) for i in range(4)))
PLANE = SearchSpace(
    (*(FloatAxis(f"x{i}", 0.0, 1.0) for i in range(6)), ChoiceAxis("c", ("a", "b")))
)


def make(space, seed=3, n_objectives=1, size=None, **options):
    kind = "catcma" if n_objectives == 1 else "comocatcma"
    return make_strategy(
        StrategySettings(kind, size, options),
        space,
        n_objectives=n_objectives,
        n_constraints=0,
        seed=seed,
    )


def run(strategy, losses, n_generations):
    """Live through generations; every point's losses, points, and notes."""
    found, points, notes = [], [], {}
    for generation in range(1, n_generations + 1):
        proposal = strategy.ask(generation)
        if proposal.note:
            notes[generation] = proposal.note
        values = [losses(point) for point in proposal.points]
        told = [
            Told(point, value if value is None or type(value) is tuple else (value,))
            for point, value in zip(proposal.points, values, strict=True)
        ]
        strategy.tell(generation, proposal, told)
        found.append(values)
        points.append(proposal.points)
    return found, points, notes


def best(found):
    return min(value for values in found for value in values if value is not None)


@pytest.mark.parametrize("target", [0.3, 1.0])
def test_numbers_are_solved_inside_and_at_a_corner(target):
    found, _, _ = run(
        make(LINE), lambda p: sum((v - target) ** 2 for v in p.values()), 60
    )
    assert best(found) < 1e-3


def test_numbers_steps_and_choices_are_solved_together():
    space = SearchSpace(
        (
            *LINE.axes,
            IntAxis("n", 0, 30),
            IntAxis("bit", 0, 1, start=0),
            ChoiceAxis("c", ("a", "b", "c", "d")),
            FloatAxis("coarse", 0.0, 1.0, grid=0.25),
        )
    )

    def loss(point):
        rest = sum(float(point[f"x{i}"]) ** 2 for i in range(4))
        rest += abs(point["n"] - 29) / 30 + (point["bit"] != 1) + (point["c"] != "c")
        return rest + abs(point["coarse"] - 0.25)

    for seed in range(3):
        found, _, _ = run(make(space, seed), loss, 60)
        assert best(found) < 1e-2


def test_a_stack_is_found():
    def loss(point):
        return float(sum(point[n] != v for n, v in BEST_STACK.items() if n in point))

    for seed in range(3):
        assert best(run(make(STACK, seed), loss, 30)[0]) == 0.0


def test_axes_that_come_and_go_are_learned():
    on = tuple(Condition(f"gate.{t}", (1,)) for t in range(3))
    space = SearchSpace(
        (
            *(IntAxis(f"gate.{t}", 0, 1, start=1) for t in range(3)),
            *(FloatAxis(f"scale.{t}", 0.0, 1.0, when=on[t]) for t in range(3)),
            FloatAxis("edge", 0.0, 1.0, when=AllOf((on[0], on[2]))),
        )
    )

    def loss(point):
        gates = sum(point[f"gate.{t}"] != (1, 0, 1)[t] for t in range(3))
        numbers = [v for name, v in point.items() if not name.startswith("gate")]
        return gates + sum((v - 0.7) ** 2 for v in numbers)

    for seed in range(3):
        assert best(run(make(space, seed, restarts="none"), loss, 60)[0]) < 1e-3


def test_an_axis_of_few_values_keeps_moving_beside_one_of_many():
    """It sits at its top; the margin must go on trying its other values."""
    space = SearchSpace((IntAxis("wide", 0, 20), IntAxis("short", 0, 2, start=2)))
    for seed in range(3):
        strategy = make(space, seed, size=12, restarts="none")
        _, points, _ = run(
            strategy, lambda p: abs(p["wide"] - 10) / 4 + (p["short"] != 2), 100
        )
        late = [p["short"] != 2 for group in points[50:] for p in group]
        assert 0.1 < np.mean(late) < 0.25


def test_the_first_generation_surrounds_the_declared_starts():
    space = SearchSpace(
        (
            FloatAxis("a", 0.0, 10.0, start=9.0),
            IntAxis("n", 0, 9, start=2),
            ChoiceAxis("told", ("x", "y", "z"), start="y"),
            ChoiceAxis("open", ("x", "y", "z")),
            IntAxis("bit", 0, 1),
        )
    )
    points = make(space, size=300, sigma=0.1).ask(1).points
    assert np.mean([p["a"] for p in points]) == pytest.approx(9.0, abs=0.2)
    assert np.mean([p["n"] for p in points]) == pytest.approx(2.0, abs=0.2)
    share = np.mean([p["told"] == "y" for p in points])
    assert share == pytest.approx(0.9 + 0.1 / 3, abs=0.05)
    for value in "xyz":
        share = np.mean([p["open"] == value for p in points])
        assert share == pytest.approx(1 / 3, abs=0.1)
    assert np.mean([p["bit"] for p in points]) == pytest.approx(0.5, abs=0.1)


def test_a_run_with_nothing_new_restarts_with_twice_the_generation():
    found, _, notes = run(
        make(LINE, size=6), lambda p: p["x0"] ** 2 + p["x1"] ** 2, 150
    )
    first = min(notes)
    assert notes[first] == "restart 1 (hardly anything new)"
    assert len(found[first - 2]) == 6
    assert len(found[first - 1]) == 12


@pytest.mark.parametrize("space", [PLANE, SearchSpace(PLANE.axes[6:])])
def test_without_restarts_a_run_goes_on_long_after_it_converged(space):
    found, points, notes = run(
        make(space, size=6, restarts="none"),
        lambda p: (p["c"] == "a") + (p.get("x0", 0.5) - 0.5) ** 2,
        400,
    )
    assert notes == {}
    assert {len(values) for values in found} == {6}
    assert np.mean([p["c"] == "b" for p in points[-1]]) > 0.5


def test_flat_scores_move_nothing():
    space = SearchSpace((ChoiceAxis("c", ("a", "b"), start="a"), *LINE.axes))
    _, points, _ = run(make(space, size=100, sigma=0.02), lambda p: 1.0, 4)
    for group in points:
        assert np.std([p["x0"] for p in group]) == pytest.approx(0.04, abs=0.015)
        assert np.mean([p["c"] == "a" for p in group]) > 0.9


def test_a_search_that_only_meets_failures_moves_elsewhere():
    space = SearchSpace(
        tuple(FloatAxis(f"x{i}", -1.0, 1.0, start=-0.9) for i in range(2))
    )
    found, _, notes = run(
        make(space, sigma=0.02),
        lambda p: None if p["x0"] < 0 else float((p["x0"] - 0.5) ** 2),
        30,
    )
    assert notes[3] == "restart 1 (every candidate failed)"
    assert best(found) < 0.01


@pytest.mark.parametrize(
    "axis",
    [
        FloatAxis("a", 0.0, 1.0),
        FloatAxis("a", 0.0, 1.0, grid=0.25),
        FloatAxis("a", 0.0, 1.0, grid=1.0),
        IntAxis("a", 0, 5),
        IntAxis("a", 0, 1),
        IntAxis("a", 0, 10**6),
        ChoiceAxis("a", (0, 1, 2)),
        IntAxis("a", 3, 3),
        ChoiceAxis("a", (3,)),
    ],
    ids=str,
)
def test_one_axis_of_any_kind_is_enough(axis):
    space = SearchSpace((axis,))
    top = max(getattr(axis, "choices", ())) if hasattr(axis, "choices") else axis.high
    found, points, _ = run(make(space, size=6), lambda p: float(top - p["a"]), 20)
    for group in points:
        for point in group:
            space.check(point)
    assert best(found) <= 0.02 * top


@given(st.sampled_from(list(SPACES.values())), st.integers(0, 2**32))
def test_a_place_is_the_point_it_was_made_of(space, seed):
    mixture = Mixture(space)
    rng = np.random.default_rng(seed)
    genome = mixture._genetics.random(rng)
    means, chances = mixture.at(genome)
    drawn = SimpleNamespace(
        x=means[: mixture.n_fine], z=means[mixture.n_fine :], c=chances
    )
    assert mixture.point(drawn) == mixture._genetics.point(genome)


def two_goals(point):
    x = np.array([float(point[f"x{i}"]) for i in range(6)])
    rest = float(((x[1:] - 0.3) ** 2).sum()) + 0.3 * (point["c"] != "b")
    return (float(x[0]) + rest, 1 - float(x[0]) + rest)


def test_a_front_grows_more_than_by_chance():
    def volume(strategy):
        found, _, _ = run(strategy, two_goals, 25)
        table = np.array([losses for group in found for losses in group])
        return dominated_area(table, (2.0, 2.0))

    chance = make_strategy(
        StrategySettings("random", 10),
        PLANE,
        n_objectives=2,
        n_constraints=0,
        seed=3,
    )
    assert volume(make(PLANE, n_objectives=2, size=10)) > volume(chance) + 0.1


def test_incumbents_come_first_and_then_one_with_every_run():
    strategy = make(PLANE, n_objectives=2, size=6, kernels=4)
    found, _, _ = run(strategy, two_goals, 4)
    # Three incumbents and five candidates, then five and an incumbent each.
    assert [len(group) for group in found] == [6, 2, 6, 6]


def test_runs_begin_between_the_start_and_chance():
    space = SearchSpace(tuple(IntAxis(f"g{i}", 0, 1, start=1) for i in range(40)))
    strategy = make(space, n_objectives=2, size=30, kernels=5, sigma=0.01)
    _, points, _ = run(strategy, lambda p: (float(sum(p.values())), 0.0), 6)
    n_on = [sum(p.values()) for group in points for p in group]
    assert max(n_on) > 37
    assert min(n_on) < 26


def test_what_a_budget_cut_is_asked_again():
    strategy = make(PLANE, n_objectives=2, size=6, kernels=3)
    first = strategy.ask(1)
    told = [Told(p, two_goals(p)) for p in first.points[:2]]
    strategy.tell(1, first, told)
    assert strategy.ask(2).points[:4] == first.points[2:]


def test_failed_and_infeasible_candidates_stay_within_one_range_of_the_worst():
    strategy = make_strategy(
        StrategySettings("comocatcma", 6),
        PLANE,
        n_objectives=2,
        n_constraints=1,
        seed=1,
    )
    dead = Told({}, None)
    near, far = (Told({}, (0.0, 0.0), (missed,)) for missed in (0.1, 1e9))
    good = [Told({}, (1.0, 20.0), (0.0,)), Told({}, (3.0, 10.0), (-1.0,))]
    goals = strategy._goals([dead, near, far, *good])
    assert goals[3:].tolist() == [[1.0, 20.0], [3.0, 10.0]]
    assert goals[0].tolist() == [5.0, 30.0]
    assert (goals[1] > [3.0, 20.0]).all()
    assert (goals[1] < goals[2]).all()
    assert (goals[2] < goals[0]).all()


def test_candidates_that_die_are_avoided():
    strategy = make(PLANE, n_objectives=2, size=9)
    _, points, _ = run(strategy, lambda p: None if p["x1"] > 0.4 else two_goals(p), 30)
    late = [p["x1"] <= 0.4 for group in points[-8:] for p in group]
    assert np.mean(late) > 0.75
