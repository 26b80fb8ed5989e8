import numpy as np
import pytest

from evomerge.core.space import ChoiceAxis, Condition, FloatAxis, IntAxis, SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Told
from evomerge.strategies.registry import make_strategy
from evomerge.testing.strategy_spaces import BEST_STACK, STACK, dominated_area

PLANE = SearchSpace(tuple(FloatAxis(f"x{i}", 0.0, 1.0) for i in range(6)))
TREE = SearchSpace(
    (
        FloatAxis("a", 0.0, 1.0),
        ChoiceAxis("method", ("off", "on")),
        FloatAxis("density", 0.0, 1.0, when=Condition("method", ("on",))),
    )
)
BOTH = pytest.mark.parametrize("kind", ["nsga2", "nsga3"])


def make(kind, space, n_objectives, n_constraints=0, size=10, seed=5, **options):
    return make_strategy(
        StrategySettings(kind, size, options),
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


def two_goals(point):
    x = np.array([float(v) for v in point.values()])
    rest = float(((x[1:] - 0.3) ** 2).sum())
    return Told(point, (float(x[0]) + rest, 1 - float(x[0]) + rest))


@BOTH
@pytest.mark.parametrize("crossover", ["uniform", "sbx"])
def test_a_front_grows_more_than_by_chance(kind, crossover):
    def volume(kind, **options):
        points = run(make(kind, PLANE, 2, **options), two_goals, 20)
        table = np.array([two_goals(p).losses for group in points for p in group])
        return dominated_area(table, (2.0, 2.0))

    assert volume(kind, crossover=crossover) > volume("random") + 0.04


def test_infeasible_candidates_lose_against_feasible_ones():
    def judge(point):
        x = float(point["x0"])
        return Told(point, (x,), (0.5 - x,))  # small is better, below 0.5 forbidden

    late = run(make("nsga2", PLANE, 1, 1), judge, 12)[-1]
    assert np.mean([p["x0"] >= 0.5 for p in late]) > 0.6


def test_where_nothing_is_feasible_the_least_missing_win():
    def judge(point):
        return Told(point, (0.0,), (1.0 + float(point["x0"]),))

    late = run(make("nsga2", PLANE, 1, 1), judge, 15)[-1]
    assert np.median([p["x0"] for p in late]) < 0.2


def test_conditional_axes_are_learned():
    def judge(point):
        loss = abs(float(point["density"]) - 0.9) if "density" in point else 1.0
        return Told(point, (loss + (float(point["a"]) - 0.2) ** 2,))

    late = [p for p in run(make("nsga2", TREE, 1), judge, 12)[-1] if "density" in p]
    assert len(late) >= 5
    assert np.median([abs(p["density"] - 0.9) for p in late]) < 0.15


def test_a_stack_is_found():
    def judge(point):
        wrong = sum(point[n] != v for n, v in BEST_STACK.items() if n in point)
        return Told(point, (float(wrong),))

    for seed in range(3):
        points = run(make("nsga2", STACK, 1, seed=seed), judge, 20)
        assert min(judge(p).losses[0] for group in points for p in group) == 0.0


@BOTH
def test_nothing_is_asked_twice_while_there_is_something_new(kind):
    points = run(make(kind, STACK, 2), lambda p: Told(p, (p["x"], -p["x"])), 12)
    asked = [tuple(p.items()) for group in points for p in group]
    assert len(set(asked)) == len(asked)


def test_a_small_space_is_asked_again_when_it_is_used_up():
    space = SearchSpace((IntAxis("a", 0, 2), IntAxis("b", 0, 1)))
    points = run(make("nsga2", space, 1, size=8), lambda p: Told(p, (p["a"],)), 3)
    assert len({tuple(p.items()) for group in points for p in group}) == 6


def test_a_single_survivor_is_gone_on_from():
    strategy = make("nsga2", PLANE, 2, size=4)
    first = strategy.ask(1)
    told = [two_goals(first.points[0]), *(Told(p, None) for p in first.points[1:])]
    strategy.tell(1, first, told)
    assert len(strategy.ask(2).points) == 4


def test_the_first_candidate_is_the_start():
    assert make("nsga2", STACK, 1).ask(1).points[0] == STACK.start()


def test_without_crossover_and_mutation_children_are_parents_with_one_edit():
    strategy = make("nsga2", STACK, 1, crossover_rate=0.0, mutation_rate=0.0)
    first = strategy.ask(1)
    strategy.tell(1, first, [Told(p, (0.0,)) for p in first.points])
    for child in strategy.ask(2).points:
        near = min(
            sum(parent.get(name) != child.get(name) for name in {*parent, *child})
            for parent in first.points
        )
        assert near <= 6  # an edited gene and what its condition switches
