import subprocess
import sys

import pytest

from evomerge.core.space import ChoiceAxis, Condition, FloatAxis, IntAxis, SearchSpace
from evomerge.core.study import Sampling, StrategySettings
from evomerge.errors import EvomergeError
from evomerge.strategies import registry
from evomerge.strategies.ask_tell_guard import GuardedStrategy
from evomerge.strategies.base import Proposal
from evomerge.strategies.registry import (
    KINDS,
    generation_size,
    make_strategy,
    problems,
    register,
    widened,
)
from evomerge.strategies.strategy_info import Option, StrategyInfo

FLAT = SearchSpace((FloatAxis("x", 0.0, 1.0), IntAxis("n", 1, 4)))
TREE = SearchSpace(
    (
        ChoiceAxis("method", ("a", "b")),
        FloatAxis("density", 0.0, 1.0, when=Condition("method", ("b",))),
    )
)


def made(settings):
    n = KINDS[settings.kind].least_objectives
    assert problems(settings, FLAT, n) == []
    return make_strategy(settings, FLAT, n_objectives=n, n_constraints=0, seed=1)


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_made_with_its_defaults(kind):
    settings = StrategySettings(kind)
    strategy = made(settings)
    size = generation_size(settings, FLAT)
    assert strategy.generation_size == size == len(strategy.ask(1).points)


@pytest.mark.parametrize("kind", KINDS)
def test_the_study_may_set_the_generation_size(kind):
    settings = StrategySettings(kind, generation_size=11)
    strategy = made(settings)
    assert len(strategy.ask(1).points) == generation_size(settings, FLAT) == 11


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS.keys())
def test_every_option_is_documented_and_accepts_its_default(kind):
    for option in kind.options:
        assert option.help.endswith(".")
        assert option.problem(option.default) is None


def test_cma_refuses_choices_and_says_what_to_use():
    (problem,) = problems(StrategySettings("cma"), TREE, 1)
    assert "(method)" in problem
    assert "use catcma, tpe, nsga2 or climb, or decide these axes" in problem


def test_cma_takes_numbers_that_come_and_go():
    gated = SearchSpace(
        (IntAxis("gate", 0, 1), FloatAxis("s", 0, 1, when=Condition("gate", (1,))))
    )
    assert problems(StrategySettings("cma"), gated, 1) == []


def test_cma_refuses_several_objectives_and_says_how_to_join_them():
    (problem,) = problems(StrategySettings("cma"), FLAT, 2)
    assert "one objective, got 2" in problem
    assert "'worst'" in problem


@pytest.mark.parametrize("kind", ["tpe", "nsga2", "nsga3", "climb", "random"])
def test_the_others_take_what_cma_cannot(kind):
    assert problems(StrategySettings(kind), TREE, 3) == []


def test_catcma_takes_everything_of_one_objective():
    assert problems(StrategySettings("catcma"), TREE, 1) == []
    (problem,) = problems(StrategySettings("catcma"), TREE, 2)
    assert "use comocatcma, tpe, nsga2, nsga3 or climb, or join them" in problem


def test_comocatcma_is_for_two_objectives():
    settings = StrategySettings("comocatcma")
    assert problems(settings, TREE, 2) == []
    (problem,) = problems(settings, TREE, 3)
    assert "at most 2 objectives, got 3; use tpe, nsga2, nsga3 or climb" in problem
    (problem,) = problems(settings, TREE, 1)
    assert "2 objectives or more, got 1" in problem


def test_more_numbers_than_a_matrix_can_hold_are_refused():
    axes = [FloatAxis(f"x{i}", 0.0, 1.0) for i in range(1001)]
    gates = [IntAxis(f"g{i}", 0, 1) for i in range(3000)]
    settings = StrategySettings("catcma")
    assert problems(settings, SearchSpace((*axes[1:], *gates)), 1) == []
    (problem,) = problems(settings, SearchSpace((*axes, *gates)), 1)
    assert "at most 1000 numbers, got 1001; use tpe, nsga2 or climb" in problem


def test_nsga3_is_for_several_objectives():
    (problem,) = problems(StrategySettings("nsga3"), FLAT, 1)
    assert "2 objectives or more, got 1; use catcma, tpe, nsga2 or climb" in problem


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (StrategySettings("cmaes"), "unknown strategy 'cmaes'; did you mean 'cma'?"),
        (
            StrategySettings("cma", options={"sigme": 1}),
            "no option 'sigme'; did you mean 'sigma'? known: sigma, restarts",
        ),
        (StrategySettings("cma", options={"sigma": 0}), "from 0.001 to 1, got 0"),
        (StrategySettings("cma", options={"sigma": True}), "got True"),
        (StrategySettings("cma", options={"sigma": "big"}), "got 'big'"),
        (StrategySettings("cma", options={"diagonal": 1}), "true or false, got 1"),
        (StrategySettings("cma", options={"restarts": "pop"}), "ipop, bipop, none"),
        (StrategySettings("tpe", options={"startup": 2.5}), "got 2.5"),
        (StrategySettings("random", options={"a": 1}), "known: none"),
        (StrategySettings("cma", 2), "at least 4, got 2"),
        (StrategySettings("nsga2", 1), "at least 2, got 1"),
        (StrategySettings("tpe", 0), "at least 1, got 0"),
    ],
)
def test_mistakes_are_named_with_what_was_expected(settings, words):
    (problem,) = problems(settings, FLAT, 1)
    assert words in problem.replace("?;", "?")
    with pytest.raises(EvomergeError):
        make_strategy(settings, FLAT, n_objectives=1, n_constraints=0, seed=1)


def test_all_mistakes_are_listed_at_once():
    settings = StrategySettings("cma", 1, {"a": 1, "sigma": -1})
    assert len(problems(settings, TREE, 2)) == 5


def test_naming_a_strategy_loads_no_optimiser():
    code = (
        "import sys, evomerge.strategies.registry\n"
        "heavy = {'cma', 'cmaes', 'optuna', 'scipy', 'torch'}\n"
        "print(sorted(heavy.intersection(sys.modules)))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


class Corner(GuardedStrategy):
    """A stranger's strategy: asks for one corner of the space, again and again."""

    def _propose(self, generation):
        unit = self._options["corner"]
        point = {axis.name: axis.value(unit) for axis in self._space.axes}
        return Proposal((point,) * self._size)

    def _learn(self, generation, results):
        pass


CORNER = StrategyInfo(
    "corner",
    "One corner of the space.",
    (Option("corner", "float", 1.0, "Which one.", low=0.0, high=1.0),),
    lambda n_axes: 3,
    numeric_only=True,
)


@pytest.fixture
def corner(monkeypatch):
    monkeypatch.setattr(registry, "KINDS", dict(KINDS))
    monkeypatch.setattr(registry, "_MAKERS", dict(registry._MAKERS))
    register(CORNER, Corner)


def test_a_strategy_from_outside_is_made_and_judged_as_the_others_are(corner):
    settings = StrategySettings("corner", options={"corner": 0.0})
    strategy = make_strategy(settings, FLAT, n_objectives=1, n_constraints=0, seed=1)
    assert strategy.generation_size == 3
    assert not strategy.is_fold
    assert strategy.ask(1).points == ({"x": 0.0, "n": 1},) * 3
    with pytest.raises(ValueError, match="asked out of order"):
        strategy.ask(1)
    (problem,) = problems(StrategySettings("corner"), TREE, 1)
    assert "corner searches numbers, not categorical axes (method)" in problem
    (problem,) = problems(StrategySettings("corners"), FLAT, 1)
    assert "did you mean 'corner'?" in problem


def test_a_name_is_registered_once(corner):
    with pytest.raises(ValueError, match="a strategy 'corner' already"):
        register(CORNER, Corner)


@pytest.mark.parametrize("kind", ["nsga2", "climb"])
def test_what_keeps_the_best_of_earlier_generations_needs_equal_items(kind):
    (problem,) = problems(StrategySettings(kind), FLAT, 1, True)
    assert problem == (
        f"{kind} compares candidates with those of earlier generations, which with an "
        "items.share below 1 answered other items; use cma, catcma, tpe, grid, random, "
        "or leave items.share out"
    )
    assert problems(StrategySettings(kind), FLAT, 1) == []


def test_several_objectives_need_equal_items():
    (problem,) = problems(StrategySettings("tpe"), FLAT, 2, True)
    assert "an items.share below 1 is for one objective, got 2" in problem


def test_few_items_widen_generations_whose_size_is_not_given():
    usual = StrategySettings("cma")
    few, more = Sampling(0.2, 10), Sampling(0.25, 10)
    size = generation_size(usual, FLAT)
    assert generation_size(widened(usual, FLAT, few), FLAT) == 2 * size
    assert widened(usual, FLAT, more) == widened(usual, FLAT, None) == usual
    given = StrategySettings("cma", 7)
    assert widened(given, FLAT, few) == given
