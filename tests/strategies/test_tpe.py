import numpy as np

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
from evomerge.strategies.registry import make_strategy
from evomerge.strategies.tpe import _groups
from evomerge.testing.strategy_spaces import dominated_area

PLANE = SearchSpace(tuple(FloatAxis(f"x{i}", 0.0, 1.0) for i in range(6)))
TREE = SearchSpace(
    (
        FloatAxis("a", 0.0, 1.0),
        ChoiceAxis("method", ("off", "on")),
        FloatAxis("density", 0.0, 1.0, when=Condition("method", ("on",))),
    )
)


def make(kind, space, n_objectives, n_constraints=0, size=None, **options):
    return make_strategy(
        StrategySettings(kind, size, options),
        space,
        n_objectives=n_objectives,
        n_constraints=n_constraints,
        seed=5,
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
    rest = float(((x[1:] - 0.5) ** 2).sum())
    return Told(point, (float(x[0]) + rest, 1 - float(x[0]) + rest))


def test_a_front_grows_more_than_by_chance():
    def volume(strategy, n_generations):
        points = run(strategy, two_goals, n_generations)
        table = np.array([two_goals(p).losses for group in points for p in group])
        return dominated_area(table, (2.0, 2.0))

    learned = volume(make("tpe", PLANE, 2, size=10), 12)
    assert learned > volume(make("random", PLANE, 2, size=10), 12) + 0.05


def test_tpe_avoids_where_candidates_die():
    def judge(point):
        return Told(point, None if point["x0"] > 0.3 else (1.0 - float(point["x0"]),))

    late = run(make("tpe", PLANE, 1), judge, 10)[-1]
    assert np.mean([p["x0"] <= 0.3 for p in late]) > 0.5


def test_infeasible_candidates_lose_against_feasible_ones():
    def judge(point):
        x = float(point["x0"])
        return Told(point, (x,), (0.5 - x,))  # small is better, below 0.5 forbidden

    late = run(make("tpe", PLANE, 1, 1, size=10), judge, 12)[-1]
    assert np.mean([p["x0"] >= 0.5 for p in late]) > 0.6


def test_conditional_axes_are_learned():
    def judge(point):
        loss = abs(float(point["density"]) - 0.9) if "density" in point else 1.0
        return Told(point, (loss + (float(point["a"]) - 0.2) ** 2,))

    points = run(make("tpe", TREE, 1, size=10), judge, 12)
    late = [p["density"] for p in points[-1] if "density" in p]
    assert len(late) >= 5
    assert np.median(np.abs(np.array(late) - 0.9)) < 0.15


def test_choices_that_python_calls_equal_are_kept_apart():
    space = SearchSpace((ChoiceAxis("c", (True, 1, 1.5)), FloatAxis("x", 0.0, 1.0)))

    def judge(point):
        return Told(point, (0.0 if point["c"] is True else 1.0,))

    late = run(make("tpe", space, 1), judge, 8)[-1]
    assert sum(p["c"] is True for p in late) >= 5


GATES = tuple(Condition(f"gate.{t}", (1,)) for t in range(3))
STACK = SearchSpace(
    (
        *(IntAxis(f"gate.{t}", 0, 1) for t in range(3)),
        *(
            FloatAxis(f"edge.{t}", 0.0, 1.0, when=AllOf((GATES[t], GATES[t + 1])))
            for t in range(2)
        ),
        FloatAxis("of.0", 0.0, 1.0, when=GATES[0]),
        FloatAxis("of.1", 0.0, 1.0, when=AllOf((GATES[0], GATES[1]))),
    )
)


def test_axes_that_exist_together_are_drawn_together():
    groups = _groups(STACK)
    assert [[axis.name for axis in axes] for _, axes in groups] == [
        ["gate.0", "gate.1", "gate.2"],
        ["edge.0", "of.1"],
        ["edge.1"],
        ["of.0"],
    ]
    seen = set()
    for condition, axes in groups:
        assert condition is None or seen.issuperset(condition.axes)
        seen.update(axis.name for axis in axes)


def test_axes_under_several_conditions_are_learned():
    def judge(point):
        gates = sum(point[f"gate.{t}"] != (1, 1, 0)[t] for t in range(3))
        return Told(point, (gates + abs(float(point.get("edge.0", 0.0)) - 0.9),))

    points = run(make("tpe", STACK, 1, size=10), judge, 12)
    late = [p["edge.0"] for p in points[-1] if "edge.0" in p]
    assert len(late) >= 5
    assert np.median(np.abs(np.array(late) - 0.9)) < 0.15


def test_optuna_is_not_told_to_talk(caplog, capfd):
    make("tpe", PLANE, 1).ask(1)
    assert capfd.readouterr() == ("", "")
