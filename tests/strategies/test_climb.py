import numpy as np
import pytest

from evomerge.core.space import FloatAxis, IntAxis, SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Told
from evomerge.strategies.genetic.hill_climb import _keys
from evomerge.strategies.genetic.survival import Member
from evomerge.strategies.registry import make_strategy
from evomerge.testing.strategy_spaces import BEST_STACK, GATES, STACK

WIDE = SearchSpace(tuple(FloatAxis(f"x{i}", 0.0, 1.0) for i in range(60)))
LINE = SearchSpace(tuple(IntAxis(f"n{i}", 0, 1000, start=500) for i in range(3)))


def make(space, n_objectives=1, n_constraints=0, size=6, seed=5, **options):
    return make_strategy(
        StrategySettings("climb", size, options),
        space,
        n_objectives=n_objectives,
        n_constraints=n_constraints,
        seed=seed,
    )


def run(strategy, judge, n_generations):
    points = []
    for generation in range(1, n_generations + 1):
        proposal = strategy.ask(generation)
        strategy.tell(generation, proposal, [judge(p) for p in proposal.points])
        points.append(proposal.points)
    return points


def changes(point, other):
    return sum(point.get(n) != other.get(n) for n in {*point, *other})


def test_a_climb_begins_at_the_start_and_stays_near_it():
    first = make(GATES, size=20).ask(1).points
    assert first[0] == GATES.start()
    assert all(p != first[0] for p in first[1:])
    assert np.median([changes(p, first[0]) for p in first[1:]]) <= 4


def test_a_stack_is_found():
    def judge(point):
        wrong = sum(point[n] != v for n, v in BEST_STACK.items() if n in point)
        return Told(point, (float(wrong),))

    for seed in range(3):
        points = run(make(STACK, seed=seed), judge, 25)
        assert min(judge(p).losses[0] for group in points for p in group) == 0.0


def test_most_children_have_one_edit_and_some_have_many():
    children = make(WIDE, size=200, edits=3).ask(1).points[1:]
    n = np.bincount([changes(p, WIDE.start()) for p in children], minlength=4)
    assert n[1] > n[2] > n[3] > 0
    one = make(WIDE, size=50, edits=1).ask(1).points[1:]
    assert {changes(p, WIDE.start()) for p in one} == {1}


def test_a_plain_is_walked_over():
    """All losses are equal: the parent moves on, and its children with it."""
    points = run(make(LINE, edits=1), lambda p: Told(p, (0.0,)), 30)
    far = [sum(abs(v - 500) for v in p.values()) for p in points[-1]]
    assert min(far) > 10


def test_a_worse_child_is_never_taken():
    def judge(point):
        return Told(point, (float(changes(point, WIDE.start())),))

    points = run(make(WIDE, edits=1), judge, 10)
    assert all(changes(p, WIDE.start()) <= 1 for group in points for p in group)


def test_feasible_is_better_than_infeasible_and_failed_is_never_taken():
    def judge(point):
        if point["n0"] > 520:
            return Told(point, None)
        return Told(point, (-float(point["n0"]),), (float(point["n0"]) - 510,))

    points = run(make(LINE, 1, 1), judge, 60)
    near = [p["n0"] for group in points[-10:] for p in group]
    assert np.median(near) == 510


def member(losses, missed=0.0):
    return Member({}, {}, losses, missed)


def test_candidates_of_several_objectives_are_compared_by_their_mean_rank():
    keys = _keys([member((0.0, 9.0)), member((1.0, 1.0)), member((2.0, 2.0))])
    assert min(keys) == keys[1]
    assert keys[1][1] == pytest.approx((2 + 1) / 2 - 0.5)


def test_equal_losses_have_equal_ranks_and_infeasible_ones_do_not_count():
    keys = _keys([member((1.0,)), member((1.0,)), member((0.0,), 0.5)])
    assert keys[0] == keys[1] < keys[2]
    alone = _keys([member((1.0,)), member((1.0,))])
    assert alone == keys[:2]


def test_a_start_that_fails_is_left():
    space = SearchSpace((FloatAxis("x", 0.0, 1.0, start=0.1),))

    def judge(point):
        return Told(point, None if point["x"] < 0.5 else (-float(point["x"]),))

    points = run(make(space), judge, 15)
    assert np.mean([p["x"] >= 0.5 for p in points[-1]]) > 0.5
