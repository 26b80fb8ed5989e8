from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from evomerge.core.space import ChoiceAxis, FloatAxis, IntAxis, SearchSpace
from evomerge.strategies.genetic.genomes import Genetics, can_move, fits, position
from evomerge.strategies.genetic.variation import Crossover, another, edited
from evomerge.testing.strategy_spaces import (
    GATES,
    MIXED,
    N_PLACES,
    NUMBERS,
    SPACES,
    STACK,
)

spaces = st.sampled_from(list(SPACES.values()))
seeds = st.integers(0, 2**32)

AXES = [
    FloatAxis("a", -2.0, 3.0),
    FloatAxis("a", 1e-5, 1.0, log=True),
    FloatAxis("a", 0.0, 1.0, grid=0.3),
    FloatAxis("a", 0.0, 1.0, grid=1.0),
    IntAxis("a", -3, 5),
    IntAxis("a", 0, 1),
    IntAxis("a", 0, 500),
    ChoiceAxis("a", ("x", "y")),
    ChoiceAxis("a", (True, 1, 1.5)),
]


def place(genome, t):
    return tuple(genome[f"{kind}.{t}"] for kind in ("donor", "scale"))


@given(spaces, seeds)
def test_a_genome_has_every_axis_and_its_point_those_that_exist(space, seed):
    genetics = Genetics(space)
    genome = genetics.random(np.random.default_rng(seed))
    assert list(genome) == [axis.name for axis in space.axes]
    point = genetics.point(genome)
    space.check(point)
    assert point.items() <= genome.items()


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES.keys())
def test_a_first_generation_reaches_from_the_start_to_chance(space):
    genetics = Genetics(space)
    start = genetics.start()
    assert genetics.point(start) == space.start()
    changed = np.zeros(9)
    for seed in range(40):
        genomes = genetics.spread(np.random.default_rng(seed), 9)
        changed += [sum(g[n] != start[n] for n in start) for g in genomes]
    assert changed[0] == 0
    assert changed[2] < changed[5] < changed[8]


@given(spaces, seeds)
def test_an_edit_changes_the_point_and_stays_in_the_space(space, seed):
    rng, genetics = np.random.default_rng(seed), Genetics(space)
    genome = genetics.random(rng)
    for _ in range(5):
        changed = edited(rng, genetics, genome)
        point = genetics.point(changed)
        space.check(point)
        assert point != genetics.point(genome)
        genome = changed


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_another_value_is_another_on_the_grid(axis):
    rng = np.random.default_rng(0)
    space = SearchSpace((axis,))
    for _ in range(200):
        value = space.random(rng)["a"]
        new = another(rng, axis, value)
        assert (type(new), new) != (type(value), value)
        assert fits(axis, new)
        if isinstance(axis, IntAxis):
            assert type(new) is int


def test_every_value_of_an_axis_is_reached_by_edits():
    rng = np.random.default_rng(0)
    for axis in (IntAxis("a", 0, 6), ChoiceAxis("a", (1, True, "x"))):
        value = SearchSpace((axis,)).start()["a"]
        seen = set()
        for _ in range(200):
            value = another(rng, axis, value)
            seen.add((type(value), value))
        assert len(seen) == (7 if isinstance(axis, IntAxis) else 3)


def test_numbers_mostly_take_a_near_value():
    rng = np.random.default_rng(0)
    steps = [abs(another(rng, FloatAxis("a", 0.0, 1.0), 0.5) - 0.5) for _ in range(400)]
    assert np.median(steps) < 0.1
    assert max(steps) > 0.4


def test_nothing_to_edit_is_left_as_it_is():
    genetics = Genetics(SearchSpace((IntAxis("only", 3, 3),)))
    rng = np.random.default_rng(0)
    assert not can_move(genetics.axes["only"])
    assert edited(rng, genetics, {"only": 3}) == {"only": 3}


def test_half_of_the_edits_or_more_go_to_the_stack():
    rng, genetics = np.random.default_rng(0), Genetics(GATES)
    start = genetics.start()
    loose = 0
    for _ in range(400):
        changed = edited(rng, genetics, start)
        loose += any(changed[name] != start[name] for name in genetics.loose)
    assert 0.15 < loose / 400 < 0.35  # 2 loose axes beside 6 places


def test_places_of_a_stack_trade_and_copy():
    rng, genetics = np.random.default_rng(0), Genetics(STACK)
    genome = dict(genetics.random(rng))
    for t, donor in enumerate(("a", "b", "a", "none", "b", "a")):
        genome[f"donor.{t}"] = donor
    before = [place(genome, t) for t in range(N_PLACES)]
    traded = copied = 0
    for _ in range(400):
        changed = edited(rng, genetics, genome)
        after = [place(changed, t) for t in range(N_PLACES)]
        moved = [t for t in range(N_PLACES) if after[t] != before[t]]
        if len(moved) == 2:
            traded += 1
            assert [after[t] for t in moved] == [before[t] for t in moved[::-1]]
        elif moved and after[moved[0]] in before:
            copied += 1
    assert traded > 50
    assert copied > 30


def test_values_that_python_calls_equal_are_kept_apart():
    axis = ChoiceAxis("a", (1, True))
    assert (position(axis, True), position(axis, 1)) == (1, 0)
    assert not fits(IntAxis("a", 0, 1), True)
    assert not fits(IntAxis("a", 0, 1), 0.5)
    assert not fits(FloatAxis("a", 0.0, 1.0, grid=0.5), 0.4)


@given(spaces, seeds, st.booleans())
def test_a_child_belongs_to_the_space(space, seed, blends):
    rng, genetics = np.random.default_rng(seed), Genetics(space)
    parents = genetics.random(rng), genetics.random(rng)
    child = Crossover(blends, 0.5).child(rng, genetics, *parents)
    assert list(child) == [axis.name for axis in space.axes]
    space.check(genetics.point(child))
    for name, axis in genetics.axes.items():
        assert fits(axis, child[name])


@given(seeds)
def test_a_childs_stack_is_one_stretch_of_the_second_parent_in_the_first(seed):
    rng, genetics = np.random.default_rng(seed), Genetics(STACK)
    first, second = genetics.random(rng), genetics.random(rng)
    child = Crossover(blends=True, swapping=1.0).child(rng, genetics, first, second)
    (sites,) = genetics.strands
    origin = []
    for site in sites:
        values = [child[name] for name in site]
        is_first = values == [first[name] for name in site]
        assert is_first or values == [second[name] for name in site]
        origin.append(is_first)
    assert sum(a != b for a, b in pairwise(origin)) <= 2


def test_every_stretch_of_a_stack_is_cut_out():
    rng, genetics = np.random.default_rng(0), Genetics(STACK)
    first = dict.fromkeys(genetics.axes, 0)
    second = dict.fromkeys(genetics.axes, 1)
    mix = Crossover(blends=False, swapping=0.0)
    seen = set()
    for _ in range(2000):
        child = mix.child(rng, genetics, first, second)
        seen.add(tuple(child[f"donor.{t}"] for t in range(N_PLACES)))
    assert len(seen) == 6 * 7 // 2 + 1


def test_blending_draws_near_the_parents_and_taking_takes_from_one():
    rng, genetics = np.random.default_rng(0), Genetics(NUMBERS)
    first, second = dict(NUMBERS.start(), x=0.2), dict(NUMBERS.start(), x=0.4)
    blended = [
        Crossover(True, 1.0).child(rng, genetics, first, second)["x"]
        for _ in range(300)
    ]
    assert np.mean(blended) == pytest.approx(0.3, abs=0.02)
    assert len(set(blended)) > 20
    assert np.abs(np.array(blended) - 0.3).max() < 0.2
    taken = {
        Crossover(False, 0.5).child(rng, genetics, first, second)["x"]
        for _ in range(50)
    }
    assert taken == {0.2, 0.4}


def test_choices_are_never_blended():
    rng, genetics = np.random.default_rng(0), Genetics(MIXED)
    first = {**genetics.start(), "method": "linear"}
    second = {**genetics.start(), "method": "dare"}
    seen = {
        Crossover(True, 0.5).child(rng, genetics, first, second)["method"]
        for _ in range(50)
    }
    assert seen == {"linear", "dare"}
