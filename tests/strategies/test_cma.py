import subprocess
import sys

import numpy as np
import pytest

from evomerge.core.space import AllOf, Condition, FloatAxis, IntAxis, SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Told
from evomerge.strategies.coordinates import Coordinates
from evomerge.strategies.registry import make_strategy

LINE = SearchSpace(tuple(FloatAxis(f"x{i}", -1.0, 1.0) for i in range(4)))


def make(space, seed=3, **options):
    settings = StrategySettings("cma", options.pop("size", None), options)
    return make_strategy(settings, space, n_objectives=1, n_constraints=0, seed=seed)


def run(strategy, loss, n_generations):
    """Live through generations; every point's loss, and the notes by generation."""
    found, notes = [], {}
    for generation in range(1, n_generations + 1):
        proposal = strategy.ask(generation)
        if proposal.note:
            notes[generation] = proposal.note
        values = [loss(point) for point in proposal.points]
        told = [
            Told(point, None if value is None else (value,))
            for point, value in zip(proposal.points, values, strict=True)
        ]
        strategy.tell(generation, proposal, told)
        found.append(values)
    return found, notes


def quadratic(target):
    return lambda point: float(sum((v - target) ** 2 for v in point.values()))


@pytest.mark.parametrize("target", [0.3, 1.0])
def test_a_quadratic_is_solved_to_the_grid_inside_and_at_a_corner(target):
    found, _ = run(make(LINE), quadratic(target), 60)
    assert min(min(values) for values in found) < 1e-4  # some grid steps


def test_the_first_generation_surrounds_the_start():
    space = SearchSpace(
        (FloatAxis("a", 0.0, 10.0, start=9.0), FloatAxis("b", 0.0, 1.0, start=0.2))
    )
    points = make(space, size=40, sigma=0.02).ask(1).points
    assert np.mean([p["a"] for p in points]) == pytest.approx(9.0, abs=0.2)
    assert np.mean([p["b"] for p in points]) == pytest.approx(0.2, abs=0.02)


def test_whole_numbers_do_not_freeze():
    space = SearchSpace((*LINE.axes, IntAxis("n", 0, 30), IntAxis("bit", 0, 1)))

    def loss(point):
        rest = sum(float(point[f"x{i}"]) ** 2 for i in range(4))
        return rest + abs(point["n"] - 29) / 30 + (point["bit"] != 0)

    for seed in range(3):
        found, _ = run(make(space, seed), loss, 40)
        assert min(min(values) for values in found) < 1e-3


ON = tuple(Condition(f"gate.{t}", (1,)) for t in range(4))
GATED = SearchSpace(
    (
        *(IntAxis(f"gate.{t}", 0, 1, start=1) for t in range(4)),
        *(FloatAxis(f"scale.{t}", 0.0, 1.0, when=ON[t]) for t in range(4)),
        FloatAxis("edge", 0.0, 1.0, when=AllOf((ON[0], ON[3]))),
    )
)


def test_numbers_that_exist_only_at_some_points_are_learned():
    """The best point lacks one gate; its scale exists at hardly any late point."""

    def loss(point):
        gates = sum(point[f"gate.{t}"] != (t != 1) for t in range(4))
        numbers = [v for name, v in point.items() if not name.startswith("gate")]
        return gates + sum((v - 0.7) ** 2 for v in numbers)

    for seed in range(3):
        found, _ = run(make(GATED, seed, restarts="none"), loss, 60)
        assert min(min(values) for values in found) < 1e-3


def test_what_a_point_lacks_is_told_as_it_was_asked():
    coordinates = Coordinates(GATED)
    rng = np.random.default_rng(0)
    for _ in range(50):
        asked = coordinates.low + rng.random(9) * (coordinates.high - coordinates.low)
        point = coordinates.point(asked)
        told = coordinates.told(point, asked)
        for i, axis in enumerate(GATED.axes):
            if axis.name in point:
                assert told[i] == coordinates.vector(point)[i]
            else:
                assert told[i] == asked[i]


def test_a_random_place_has_a_random_value_for_what_does_not_exist_there():
    coordinates = Coordinates(GATED)
    draws = np.array([coordinates.draw(np.random.default_rng(i)) for i in range(200)])
    assert (draws.std(axis=0)[4:] > 0.25).all()


def test_a_coarse_float_axis_reaches_every_value():
    space = SearchSpace((FloatAxis("a", 0.0, 1.0, grid=0.25), FloatAxis("b", 0.0, 1.0)))
    seen = {p["a"] for p in make(space, size=80, sigma=1.0).ask(1).points}
    assert seen == {0.0, 0.25, 0.5, 0.75, 1.0}


def test_a_converged_run_restarts_with_twice_the_generation():
    found, notes = run(make(LINE, size=6), quadratic(0.3), 60)
    first = min(notes)
    assert notes[first] == "restart 1 (converged to the grid)"
    assert len(found[first - 2]) == 6
    assert len(found[first - 1]) == 12


def test_without_restarts_a_converged_run_goes_on():
    found, notes = run(make(LINE, size=6, restarts="none"), quadratic(0.3), 60)
    assert notes == {}
    assert {len(values) for values in found} == {6}


def test_bipop_mixes_small_generations_with_doubled_ones():
    found, notes = run(make(LINE, size=6, restarts="bipop"), quadratic(0.3), 150)
    sizes = [len(found[generation - 1]) for generation in sorted(notes)]
    assert len(notes) >= 3
    assert sizes[0] == 12
    assert 6 in sizes


def test_flat_scores_do_not_end_a_run_at_once():
    _, notes = run(make(LINE), lambda point: 0.0, 4)
    assert notes == {}


def test_a_search_that_only_meets_failures_moves_elsewhere():
    """Nothing near the start works: a restart must find the half that does."""
    space = SearchSpace(
        tuple(FloatAxis(f"x{i}", -1.0, 1.0, start=-0.9) for i in range(2))
    )
    strategy = make(space, sigma=0.02)
    found, notes = run(
        strategy, lambda p: None if p["x0"] < 0 else float((p["x0"] - 0.5) ** 2), 30
    )
    assert notes[3] == "restart 1 (every candidate failed)"
    assert any(value is not None and value < 0.01 for v in found for value in v)


def test_one_axis_is_enough():
    space = SearchSpace((FloatAxis("x0", -1.0, 1.0),))
    found, _ = run(make(space), quadratic(0.77), 30)
    assert min(min(values) for values in found) < 1e-4


@pytest.mark.parametrize(
    "axis",
    [
        FloatAxis("a", -2.0, 3.0),
        FloatAxis("a", 1e-5, 1.0, log=True),
        FloatAxis("a", 0.0, 1.0, grid=0.1),
        FloatAxis("a", 0.0, 1.0, grid=0.3),
        IntAxis("a", -3, 5),
        IntAxis("a", 0, 500),
        IntAxis("a", 4, 4),
    ],
    ids=str,
)
def test_coordinates_lead_to_points_and_back(axis):
    coordinates = Coordinates(SearchSpace((axis,)))
    rng = np.random.default_rng(0)
    spread = coordinates.high - coordinates.low
    for _ in range(200):
        vector = coordinates.low + rng.random(1) * spread * (1 - 1e-9)
        point = coordinates.point(vector)
        again = coordinates.vector(point)
        assert (again >= coordinates.low).all()
        assert (again <= coordinates.high).all()
        assert coordinates.point(again) == point


def test_the_slow_part_of_scipy_is_not_loaded_and_can_be() -> None:
    look = (
        "import sys, evomerge.strategies.cma\n"
        "print('scipy.stats' in sys.modules)\n"
        "import scipy.stats; print(scipy.stats.norm.cdf(0.0))"
    )
    words = [sys.executable, "-c", look]
    said = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    assert said.split() == ["False", "0.5"]
