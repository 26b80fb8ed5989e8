"""Strategies that live through a history, and others that are brought to its end.

``main`` lives through one history and prints the digests of what was proposed, for
processes whose strings hash otherwise: a strategy that leans on that shows only there.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence

from evomerge.core.digest import canonical_json, digest
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Proposal, Strategy
from evomerge.strategies.registry import make_strategy
from evomerge.testing.strategy_spaces import SPACES, results


def recorded(proposal: Proposal) -> Proposal:
    """Return a proposal as a database gives it back."""
    memory = json.loads(canonical_json(dict(proposal.memory)))
    points = json.loads(json.dumps([dict(point) for point in proposal.points]))
    return Proposal(tuple(points), memory=memory, note=proposal.note)


def live(
    strategy: Strategy, n_generations: int, n_objectives: int, n_fail: int = 4
) -> list[Proposal]:
    """Ask and tell a strategy; every generation as recorded."""
    history = []
    for generation in range(1, n_generations + 1):
        proposal = strategy.ask(generation)
        history.append(recorded(proposal))
        told = results(proposal.points, n_objectives, n_fail)
        strategy.tell(generation, proposal, told)
    return history


def resume(
    strategy: Strategy, history: Sequence[Proposal], n_objectives: int, n_fail: int = 4
) -> None:
    """Bring a new strategy to the end of a recorded history."""
    for generation, proposal in enumerate(history, start=1):
        if strategy.is_fold:
            asked = recorded(strategy.ask(generation))
            assert asked == proposal, f"generation {generation} diverged"
        told = results(proposal.points, n_objectives, n_fail)
        strategy.tell(generation, proposal, told)


def digest_of(history: Sequence[Proposal]) -> str:
    """Name all that was proposed, bit for bit."""
    return digest([[list(p.points), dict(p.memory), p.note] for p in history])


def main(argument: str) -> None:
    """Live through the history that a brief in JSON describes."""
    brief = json.loads(argument)
    settings = StrategySettings(
        brief["kind"], brief["generation_size"], brief["options"]
    )
    history = [Proposal(tuple(points), m) for points, m in brief["history"]]
    n_objectives = brief["n_objectives"]

    def make() -> Strategy:
        return make_strategy(
            settings,
            SPACES[brief["space"]],
            n_objectives=n_objectives,
            n_constraints=1,
            seed=7,
        )

    fresh = live(make(), len(history), n_objectives)
    strategy = make()
    resume(strategy, fresh[:-1] if strategy.is_fold else history[:-1], n_objectives)
    last = recorded(strategy.ask(len(history)))
    sys.stdout.write(f"{digest_of(fresh)} {digest_of([last])}\n")
