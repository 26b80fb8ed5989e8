"""What strategies cost, and what they find.

    python benchmarks/strategies.py [--quick] [--seeds N]

First what a strategy's own thinking costs, per candidate, as the history grows: each is
told synthetic results up to a number of trials, then asked for a generation; the table
shows milliseconds per candidate for that ask and its tell. Folds live through their
history; the others are handed it, as a resume would.

Then what each finds on the landscapes of ``landscapes.py``: the mean best loss, or the
volume under the front of two objectives, after some candidates; and the share of
candidates that had been asked before.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from landscapes import TOYS, Toy

from evomerge.core.space import FloatAxis, SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.strategies.base import Proposal, Strategy, Told
from evomerge.strategies.registry import KINDS, make_strategy, problems
from evomerge.testing.strategy_spaces import dominated_area

N_AXES = 24
SPACE = SearchSpace(tuple(FloatAxis(f"w{i}", -1.0, 1.0) for i in range(N_AXES)))
CASES = (
    ("cma", 1, (100, 1000, 10_000)),
    ("catcma", 1, (100, 1000, 10_000)),
    ("comocatcma", 2, (100, 1000, 10_000)),
    ("tpe", 1, (100, 1000, 10_000)),
    ("tpe", 2, (100, 1000, 10_000)),
    ("nsga2", 2, (100, 1000, 10_000)),
    ("nsga3", 3, (100, 1000, 10_000)),
    ("climb", 1, (100, 1000, 10_000)),
    ("random", 1, (100, 1000, 10_000)),
)
BUDGETS = (160, 480)
REFERENCE = (1.0, 1.0)


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


@dataclass(frozen=True)
class Found:
    """What one search found.

    Attributes:
        scores: After each of the budgets.
        repeated: Share of the candidates that had been asked before.
        seconds: Of the strategy alone, for each candidate.
    """

    scores: tuple[float, ...]
    repeated: float
    seconds: float


def search(toy: Toy, kind: str, seed: int) -> Found:
    """Search a landscape up to the largest budget."""
    strategy = make_strategy(
        StrategySettings(kind),
        toy.space,
        n_objectives=toy.n_objectives,
        n_constraints=0,
        seed=seed,
    )
    losses: list[tuple[float, ...]] = []
    asked = []
    began = time.perf_counter()
    for told in _lived(toy, strategy, max(BUDGETS)):
        losses.append(told.losses or ())
        asked.append(tuple(told.point.items()))
    seconds = time.perf_counter() - began
    return Found(
        tuple(score(np.array(losses[:n])) for n in BUDGETS),
        1.0 - len(set(asked)) / len(asked),
        seconds / len(asked),
    )


def _lived(toy: Toy, strategy: Strategy, n: int) -> Iterator[Told]:
    generation = 0
    while n > 0:
        generation += 1
        proposal = strategy.ask(generation)
        told = [Told(point, toy.judge(point)) for point in proposal.points[:n]]
        strategy.tell(generation, proposal, told)
        n -= len(told)
        yield from told


def score(losses: np.ndarray) -> float:
    """Return the best loss; of two objectives the area they dominate."""
    if losses.shape[1] == 1:
        return float(losses.min())
    return dominated_area(losses, REFERENCE)


def compare(n_seeds: int, kinds: Sequence[str]) -> None:
    """Print what each strategy finds on each landscape."""
    for toy in TOYS:
        what = "best loss" if toy.n_objectives == 1 else "volume (more is better)"
        print(f"\n{toy.name}: {len(toy.space.axes)} axes; {what}, {n_seeds} seeds\n")
        columns = "".join(f"{f'at {n}':>18}" for n in BUDGETS)
        print(f"{'strategy':12}{columns}{'repeated':>10}{'ms':>8}")
        for kind in kinds:
            if problems(StrategySettings(kind), toy.space, toy.n_objectives):
                continue
            found = [search(toy, kind, seed) for seed in range(n_seeds)]
            scores = np.array([f.scores for f in found])
            row = "".join(
                f"{mean:10.3f} ± {spread:.3f}"
                for mean, spread in zip(scores.mean(0), scores.std(0), strict=True)
            )
            repeated = np.mean([f.repeated for f in found])
            ms = 1000 * np.mean([f.seconds for f in found])
            print(f"{kind:12}{row}{repeated:10.1%}{ms:8.2f}", flush=True)


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="100 trials, one seed")
    parser.add_argument("--seeds", type=int, default=5, help="searches of each kind")
    parser.add_argument("--no-cost", action="store_true", help="only what is found")
    parser.add_argument("--kinds", nargs="+", default=list(KINDS), choices=list(KINDS))
    given = parser.parse_args()
    if not given.no_cost:
        cost(quick=given.quick)
    compare(1 if given.quick else given.seeds, given.kinds)


def cost(*, quick: bool) -> None:
    """Print milliseconds for each strategy."""
    print(f"{N_AXES} axes; milliseconds per candidate (ask + tell)\n")
    print(f"{'strategy':10} {'objectives':>10} {'trials':>8} {'ms':>10}")
    for kind, n_objectives, sizes in CASES:
        measure(kind, n_objectives, 50)  # loads the library
        for n_trials in sizes[:1] if quick else sizes:
            ms = 1000 * measure(kind, n_objectives, n_trials)
            print(f"{kind:10} {n_objectives:10d} {n_trials:8d} {ms:10.3f}", flush=True)


if __name__ == "__main__":
    main()
