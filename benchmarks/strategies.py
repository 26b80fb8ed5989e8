"""What a strategy's own thinking costs, per candidate, as the history grows.

    python benchmarks/strategies.py [--quick]

Each strategy is told synthetic results up to a number of trials, then asked for a
generation; the table shows milliseconds per candidate for that ask and its tell. CMA-ES
lives through its history; the others are handed it, as a resume would.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

from evomerge.core.space import FloatAxis, SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Proposal, Strategy, Told
from evomerge.strategies.registry import make_strategy

N_AXES = 24
SPACE = SearchSpace(tuple(FloatAxis(f"w{i}", -1.0, 1.0) for i in range(N_AXES)))
CASES = (
    ("cma", 1, (100, 1000, 10_000)),
    ("random", 1, (100, 1000, 10_000)),
    ("tpe", 1, (100, 1000, 10_000)),
    ("tpe", 2, (100, 1000, 10_000)),
    ("nsga2", 2, (100, 1000, 10_000)),
)


def judge(point: dict[str, float], n_objectives: int) -> Told:
    """Score a point on shifted quadratics."""
    x = np.array([float(v) for v in point.values()])
    return Told(
        point,
        tuple(float(((x - 0.5 * k) ** 2).sum()) for k in range(n_objectives)),
    )


def live(strategy: Strategy, generation: int, n_objectives: int) -> tuple[int, float]:
    """Ask and tell one generation; candidates and seconds."""
    began = time.perf_counter()
    proposal = strategy.ask(generation)
    asked = time.perf_counter() - began
    told = [judge(dict(point), n_objectives) for point in proposal.points]
    began = time.perf_counter()
    strategy.tell(generation, proposal, told)
    return len(proposal.points), asked + time.perf_counter() - began


def hand_over(strategy: Strategy, n_trials: int, n_objectives: int) -> int:
    """Tell random points as if they had been proposed; generations told."""
    rng = np.random.default_rng(0)
    size = strategy.generation_size
    n = max(1, n_trials // size)
    for generation in range(1, n + 1):
        points = tuple(SPACE.random(rng) for _ in range(size))
        told = [judge(point, n_objectives) for point in points]
        strategy.tell(generation, Proposal(points), told)
    return n


def measure(kind: str, n_objectives: int, n_trials: int) -> float:
    """Return seconds per candidate once ``n_trials`` are known."""
    strategy = make_strategy(
        StrategySettings(kind),
        SPACE,
        n_objectives=n_objectives,
        n_constraints=0,
        seed=1,
    )
    generation = 0
    if strategy.is_fold:
        n = 0
        while n < n_trials:
            generation += 1
            n += live(strategy, generation, n_objectives)[0]
    else:
        generation = hand_over(strategy, n_trials, n_objectives)
    n, seconds = live(strategy, generation + 1, n_objectives)
    return seconds / n


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 trials only")
    quick = parser.parse_args().quick
    print(f"{N_AXES} axes; milliseconds per candidate (ask + tell)\n")
    print(f"{'strategy':10} {'objectives':>10} {'trials':>8} {'ms':>10}")
    for kind, n_objectives, sizes in CASES:
        measure(kind, n_objectives, 50)  # loads the library
        for n_trials in sizes[:1] if quick else sizes:
            ms = 1000 * measure(kind, n_objectives, n_trials)
            print(f"{kind:10} {n_objectives:10d} {n_trials:8d} {ms:10.3f}", flush=True)


if __name__ == "__main__":
    main()
