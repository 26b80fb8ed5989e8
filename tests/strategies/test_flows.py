"""Every strategy searches every kind of data flow, and goes on exactly."""

import numpy as np
import pytest
from support.flows import space_of

from evomerge.core.flow.blueprint import Flow
from evomerge.core.flow.donors import Donors, Switches
from evomerge.core.flow.edits import Edits
from evomerge.core.flow.gates import Gates
from evomerge.core.flow.layer_pool import LayerPool
from evomerge.core.flow.scales import Scales, Scaling
from evomerge.core.flow.slices import Slices
from evomerge.core.space import SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Strategy, Told
from evomerge.strategies.genetic.genomes import Genetics
from evomerge.strategies.registry import KINDS, make_strategy, problems
from evomerge.testing.strategy_contract import recorded

STOCK = LayerPool((("a", 6), ("b", 6)), 2, 9)
SAME = LayerPool((("a", 6), ("b", 6)), 6, 6)
FLOWS: dict[str, Flow] = {
    "gates": Gates(STOCK, 2, Scales(Scaling.LAYER)),
    "gates with edges": Gates(STOCK, 1, Scales(Scaling.EDGE)),
    "edits": Edits(STOCK, 3, Scales(Scaling.LAYER)),
    "donors": Donors(SAME, Scales(Scaling.EDGE)),
    "switches": Switches(SAME, 2, Scales(Scaling.LAYER)),
    "slices": Slices(STOCK, 3, Scales(Scaling.EDGE)),
}
QUICK_TPE = StrategySettings("tpe", 3, {"startup": 5, "candidates": 4})


def make(kind: str, space: SearchSpace) -> Strategy:
    return make_strategy(
        QUICK_TPE if kind == "tpe" else StrategySettings(kind, 6),
        space,
        n_objectives=KINDS[kind].least_objectives,
        n_constraints=0,
        seed=2,
    )


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
@pytest.mark.parametrize(
    "kind",
    [pytest.param(k, marks=pytest.mark.slow if k == "tpe" else ()) for k in KINDS],
)
def test_a_data_flow_is_searched_and_gone_on_with(kind: str, flow: Flow) -> None:
    space = space_of(flow)
    n = KINDS[kind].least_objectives
    if problems(StrategySettings(kind), space, n):
        assert kind in ("cma", "grid")
        return
    strategy, again = make(kind, space), make(kind, space)
    for generation in (1, 2, 3):
        proposal = strategy.ask(generation)
        told = []
        for point in proposal.points:
            space.check(point)
            depth = float(len(flow.steps(point)))
            told.append(Told(point, (depth, -depth, depth)[:n]))
        strategy.tell(generation, proposal, told)
        if again.is_fold or generation == 3:
            assert recorded(again.ask(generation)) == recorded(proposal)
        again.tell(generation, proposal, told)


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_populations_and_climbers_begin_with_the_first_source_as_it_stands(
    flow: Flow,
) -> None:
    space = space_of(flow)
    layers = [("a", index, 1.0) for index in range(6)]
    for kind in ("nsga2", "nsga3", "climb"):
        first = make(kind, space).ask(1).points[0]
        steps = flow.steps(first)
        assert [(s.source, s.index, s.scale) for s in steps] == layers


@pytest.mark.parametrize("flow", FLOWS.values(), ids=FLOWS.keys())
def test_the_strands_of_a_data_flow_are_those_of_its_genetics(flow: Flow) -> None:
    genetics = Genetics(space_of(flow))
    assert genetics.strands
    assert genetics.loose == ()
    genome = genetics.random(np.random.default_rng(0))
    assert genetics.point(genome).keys() <= genome.keys()
