import pytest

from evomerge.core.study import StrategySettings
from evomerge.testing.strategy_contract import LearningContract, StrategyContract
from evomerge.testing.strategy_spaces import GATES, NUMBERS, STACK


class TestCma(LearningContract):
    settings = StrategySettings("cma", 8)
    space = NUMBERS
    n_generations = 10


class TestCmaWithSmallGenerationsAndBipop(StrategyContract):
    settings = StrategySettings("cma", 5, {"restarts": "bipop", "sigma": 0.1})
    space = NUMBERS
    n_generations = 10


class TestCmaDiagonal(LearningContract):
    settings = StrategySettings("cma", None, {"diagonal": True})
    space = NUMBERS


class TestCmaOfConditionalNumbers(LearningContract):
    settings = StrategySettings("cma", 8, {"restarts": "bipop"})
    space = GATES
    n_generations = 10
    n_learning = 30


class TestCatcma(LearningContract):
    settings = StrategySettings("catcma", 8)
    n_generations = 6
    n_learning = 25


class TestCatcmaOfAStack(LearningContract):
    settings = StrategySettings("catcma", 12, {"sigma": 0.3})
    space = STACK
    n_generations = 6
    n_learning = 30


class TestCatcmaOfGates(StrategyContract):
    settings = StrategySettings("catcma", 5, {"restarts": "none"})
    space = GATES
    n_generations = 6


class TestComocatcma(StrategyContract):
    settings = StrategySettings("comocatcma", 6, {"kernels": 3})
    n_generations = 8
    n_objectives = 2


class TestComocatcmaOfAStack(StrategyContract):
    settings = StrategySettings("comocatcma", 9)
    space = STACK
    n_generations = 6
    n_objectives = 2


class TestTpe(LearningContract):
    settings = StrategySettings("tpe", 5, {"startup": 4})


class TestTpeOfTwoObjectives(StrategyContract):
    settings = StrategySettings("tpe", 5, {"startup": 4})
    n_objectives = 2


@pytest.mark.slow
class TestTpeOfAStack(LearningContract):
    settings = StrategySettings("tpe", 5, {"startup": 4, "candidates": 8})
    space = STACK
    n_generations = 3


class TestNsga2(StrategyContract):
    settings = StrategySettings("nsga2", 8)
    n_objectives = 2


class TestNsga2OfOneObjective(LearningContract):
    settings = StrategySettings("nsga2", 8, {"crossover": "sbx"})


class TestNsga2OfAStack(LearningContract):
    settings = StrategySettings("nsga2", 8)
    space = STACK


class TestNsga2OfGates(StrategyContract):
    settings = StrategySettings("nsga2", 6, {"mutation_rate": 0.3})
    space = GATES
    n_objectives = 2


class TestNsga3(StrategyContract):
    settings = StrategySettings("nsga3", 8)
    space = STACK
    n_objectives = 3


class TestClimbOfAStack(LearningContract):
    settings = StrategySettings("climb", 8)
    space = STACK
    n_learning = 20


class TestClimbOfTwoObjectives(StrategyContract):
    settings = StrategySettings("climb", 4, {"edits": 3})
    space = GATES
    n_objectives = 2


class TestRandom(StrategyContract):
    settings = StrategySettings("random")
