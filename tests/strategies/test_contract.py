import pytest

from evomerge.core.space import (
    ChoiceAxis,
    Condition,
    FloatAxis,
    IntAxis,
    SearchSpace,
)
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Strategy
from evomerge.strategies.registry import make_strategy
from evomerge.testing.strategy_contract import LearningContract, StrategyContract
from evomerge.testing.strategy_spaces import GATES, NUMBERS, STACK


class Registered:
    """Makes a strategy by its settings."""

    settings: StrategySettings
    space: SearchSpace
    n_objectives: int

    def make(self, seed: int) -> Strategy:
        return make_strategy(
            self.settings,
            self.space,
            n_objectives=self.n_objectives,
            n_constraints=1,
            seed=seed,
        )


class TestCma(Registered, LearningContract):
    settings = StrategySettings("cma", 8)
    space = NUMBERS
    n_generations = 10


class TestCmaWithSmallGenerationsAndBipop(Registered, StrategyContract):
    settings = StrategySettings("cma", 5, {"restarts": "bipop", "sigma": 0.1})
    space = NUMBERS
    n_generations = 10


class TestCmaDiagonal(Registered, LearningContract):
    settings = StrategySettings("cma", None, {"diagonal": True})
    space = NUMBERS


class TestCmaOfConditionalNumbers(Registered, LearningContract):
    settings = StrategySettings("cma", 8, {"restarts": "bipop"})
    space = GATES
    n_generations = 10
    n_learning = 30


class TestCatcma(Registered, LearningContract):
    settings = StrategySettings("catcma", 8)
    n_generations = 6
    n_learning = 25


class TestCatcmaOfAStack(Registered, LearningContract):
    settings = StrategySettings("catcma", 12, {"sigma": 0.3})
    space = STACK
    n_generations = 6
    n_learning = 30


class TestCatcmaOfGates(Registered, StrategyContract):
    settings = StrategySettings("catcma", 5, {"restarts": "none"})
    space = GATES
    n_generations = 6


class TestComocatcma(Registered, StrategyContract):
    settings = StrategySettings("comocatcma", 6, {"kernels": 3})
    n_generations = 8
    n_objectives = 2


class TestComocatcmaOfAStack(Registered, StrategyContract):
    settings = StrategySettings("comocatcma", 9)
    space = STACK
    n_generations = 6
    n_objectives = 2


class TestTpe(Registered, LearningContract):
    settings = StrategySettings("tpe", 5, {"startup": 4})


class TestTpeOfTwoObjectives(Registered, StrategyContract):
    settings = StrategySettings("tpe", 5, {"startup": 4})
    n_objectives = 2


@pytest.mark.slow
class TestTpeOfAStack(Registered, LearningContract):
    settings = StrategySettings("tpe", 5, {"startup": 4, "candidates": 8})
    space = STACK
    n_generations = 3


class TestNsga2(Registered, StrategyContract):
    settings = StrategySettings("nsga2", 8)
    n_objectives = 2


class TestNsga2OfOneObjective(Registered, LearningContract):
    settings = StrategySettings("nsga2", 8, {"crossover": "sbx"})


class TestNsga2OfAStack(Registered, LearningContract):
    settings = StrategySettings("nsga2", 8)
    space = STACK


class TestNsga2OfGates(Registered, StrategyContract):
    settings = StrategySettings("nsga2", 6, {"mutation_rate": 0.3})
    space = GATES
    n_objectives = 2


class TestNsga3(Registered, StrategyContract):
    settings = StrategySettings("nsga3", 8)
    space = STACK
    n_objectives = 3


class TestClimbOfAStack(Registered, LearningContract):
    settings = StrategySettings("climb", 8)
    space = STACK
    n_learning = 20


class TestClimbOfTwoObjectives(Registered, StrategyContract):
    settings = StrategySettings("climb", 4, {"edits": 3})
    space = GATES
    n_objectives = 2


class TestGrid(Registered, StrategyContract):
    settings = StrategySettings("grid", 8)
    space = SearchSpace(
        (
            FloatAxis("x", -1.0, 1.0, grid=0.25),
            FloatAxis("coarse", 0.0, 1.0, grid=0.25),
            ChoiceAxis("kind", ("a", "b")),
            IntAxis("more", 1, 2, when=Condition("kind", ("b",))),
        )
    )


class TestRandom(Registered, StrategyContract):
    settings = StrategySettings("random")
