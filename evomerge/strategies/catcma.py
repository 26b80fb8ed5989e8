"""CatCMA with margin, on cmaes: evolution strategies for numbers and categories.

Folds, as all evolution strategies here. A solution is told back exactly as it was
drawn: nothing is learned from rounding, nor for a coordinate that does not exist there
but what chance says. The library's own generator is seeded anew before every use.
"""

from __future__ import annotations

import warnings
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from cmaes import CatCMAwM, COMOCatCMAwM

from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Told, scope
from evomerge.strategies.coordinates import Mixture, Vector
from evomerge.strategies.ranks import order, violation

_ASK, _BEGIN, _PLACE, _TELL = range(4)  # phases: last part of a random scope

MAX_DOUBLINGS = 9
"""A population is never more than 2**9 times the first one (Auger and Hansen 2005)."""

FAILED_GENERATIONS = 2
"""All candidates failed this often in a row: the search moves elsewhere."""

PATIENCE = 5
"""Generations over which a run must still propose something new."""

STALE = 0.6
"""Share of known points in them that ends a run.

The margins keep changing a value in about a quarter of the candidates for ever, so not
even a run that has nothing left to learn proposes known points alone.
"""


def _seed(*key: int) -> int:
    return int(scope(*key).integers(2**32))


def _kernel(
    mixture: Mixture, place: tuple[Vector, Vector], popsize: int, sigma: float
) -> CatCMAwM:
    """Make a search distribution.

    Args:
        mixture: The space.
        place: Means of the numbers and chances of the categories.
        popsize: Candidates a generation.
        sigma: First spread: of a number as a share of its axis, of a category as the
            chance of an even draw.
    """
    means, chances = place
    even = np.zeros_like(chances)
    for row, n in zip(even, mixture.categories, strict=True):
        row[:n] = 1.0 / n
    fine = [[0.0, 1.0]] * mixture.n_fine
    rows = [list(range(n)) for n in mixture.rows]
    kernel = CatCMAwM(
        x_space=fine or None,
        z_space=rows or None,
        c_space=mixture.categories or None,
        population_size=popsize,
        mean=means.copy(),
        sigma=1.0,
        cov=np.diag((sigma * mixture.widths) ** 2),
        cat_param=(1.0 - sigma) * chances + sigma * even,
        seed=0,
    )
    for limits, row in zip(kernel._z_lim if rows else (), rows, strict=True):
        # cmaes 0.13.1 pads a row that is shorter than the longest with its last value,
        # and takes the padding for thresholds: near its top the axis hardly moves any
        # more. The last real threshold does no harm.
        limits[len(row) - 1 :] = limits[len(row) - 2]
    return kernel


class CatcmaStrategy(GuardedStrategy):
    """CatCMA with margin (Hamano et al. 2025, arXiv 2504.07884), with restarts.

    A run ends when it hardly proposes anything new, or the library says so; the next
    has twice the generation and begins at a random place. The generation size is that
    of the first run.
    """

    def __init__(self, setup: StrategySetup) -> None:
        super().__init__(setup)
        self._mixture = Mixture(self._space)
        self._popsize = self._size
        self._sigma = float(self._options["sigma"])
        self._restarts = self._options["restarts"] != "none"
        self._run = 0
        self._failed_generations = 0
        self._known: set[tuple[Any, ...]] = set()
        self._stale: deque[float] = deque(maxlen=PATIENCE)
        self._asked: list[CatCMAwM.Solution] = []
        self._es = self._begin(self._mixture.start())

    @property
    def generation_size(self) -> int:
        """Candidates a generation of the present run."""
        return self._popsize

    def _propose(self, generation: int) -> Proposal:
        reason = self._why_stop()
        if reason:
            self._run += 1
            self._popsize = self._size * 2 ** min(self._run, MAX_DOUBLINGS)
            place = scope(self._seed, self._run, _PLACE)
            self._es = self._begin(self._mixture.random(place))
            self._failed_generations = 0
            self._stale.clear()
        self._es.reseed_rng(_seed(self._seed, generation, _ASK))
        self._asked = [self._es.ask() for _ in range(self._popsize)]
        points = tuple(self._mixture.point(solution) for solution in self._asked)
        keys = [tuple(point.items()) for point in points]
        self._stale.append(sum(key in self._known for key in keys) / len(keys))
        self._known.update(keys)
        note = f"restart {self._run} ({reason})" if reason else None
        return Proposal(points, note=note)

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Move the distribution."""
        losses = order(results)
        self._failed_generations += 1
        if losses is None:
            return  # no order, nothing to learn; see _why_stop
        self._failed_generations = 0
        if len(results) < self._popsize or losses.min() == losses.max():
            return  # the update takes whole generations only, and something to order
        # Ranks, as only the order counts: the library's penalty for leaving the box
        # and its stopping tests then see the same spread in every generation.
        _, ranks = np.unique(losses, return_inverse=True)
        told = list(zip(self._asked, ranks.astype(float).tolist(), strict=True))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._es.tell(told)

    def _begin(self, place: tuple[Vector, Vector]) -> CatCMAwM:
        return _kernel(self._mixture, place, self._popsize, self._sigma)

    def _why_stop(self) -> str | None:
        """Say why the present run is over; None if it goes on."""
        if not self._restarts:
            return None
        if self._failed_generations >= FAILED_GENERATIONS:
            return "every candidate failed"
        if len(self._stale) == PATIENCE and sum(self._stale) > STALE * PATIENCE:
            return "hardly anything new"
        if self._mixture.n_numbers and self._es.should_stop():
            return "converged"
        return None


class ComocatcmaStrategy(GuardedStrategy):
    """COMO-CatCMA with margin (Hamano et al. 2025, arXiv 2504.07884): two objectives.

    Several CatCMA runs take turns; each looks for the point that adds most to the
    volume that the others' incumbents dominate, so together they find a front. After a
    run's turn its new incumbent is asked beside the next run's candidates. The runs
    begin between the start of the space (the first) and chance (the last).

    A generation is the candidates of one run and an incumbent. The incumbents of all
    runs come first, so the first generations differ.
    """

    def __init__(self, setup: StrategySetup) -> None:
        super().__init__(setup)
        self._mixture = Mixture(self._space)
        n, sigma = int(self._options["kernels"]), float(self._options["sigma"])
        kernels = [
            _kernel(self._mixture, self._place(i, n), self._size - 1, sigma)
            for i in range(n)
        ]
        self._es = COMOCatCMAwM(
            x_space=[[0.0, 1.0]] * self._mixture.n_fine or None,
            z_space=[list(range(row)) for row in self._mixture.rows] or None,
            c_space=self._mixture.categories or None,
            kernels=kernels,
            seed=_seed(self._seed, 0, _BEGIN),
        )
        self._cut: deque[COMOCatCMAwM.Solution] = deque()
        self._asked: list[COMOCatCMAwM.Solution] = []
        self._found = np.empty((0, 2))  # every feasible loss

    def _place(self, i: int, n: int) -> tuple[Vector, Vector]:
        share = i / max(n - 1, 1)
        start = self._mixture.start()
        drawn = self._mixture.random(scope(self._seed, i, _PLACE))
        means, chances = (
            (1.0 - share) * a + share * b for a, b in zip(start, drawn, strict=True)
        )
        return means, chances

    def _propose(self, generation: int) -> Proposal:
        self._asked = []
        while self._cut and len(self._asked) < self._size:
            self._asked.append(self._cut.popleft())
        self._asked += self._es.ask_iter(limit=self._size - len(self._asked))
        return Proposal(tuple(self._mixture.point(s) for s in self._asked))

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Move the run whose turn it is."""
        # The run waits for each of its candidates: those that a budget cut are asked
        # again.
        self._cut.extend(self._asked[len(results) :])
        goals = self._goals(results)
        # The next run draws its candidates while it is told.
        self._es.reseed_rng(_seed(self._seed, generation, _TELL))
        told = list(zip(self._asked, goals.tolist(), strict=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            self._es.tell(told)

    def _goals(self, results: Sequence[Told]) -> npt.NDArray[np.float64]:
        """Return two finite losses for everyone, shape ``(n, 2)``.

        Infeasible candidates are put behind the worst feasible loss there was, the
        further the more they miss, and failed ones behind these; all within one range,
        or the point that volumes are measured from would leave the front.
        """
        fit = [r.losses for r in results if r.losses and violation(r) == 0.0]
        self._found = np.concatenate([self._found, np.reshape(fit, (-1, 2))])
        low, high = np.zeros(2), np.zeros(2)
        if len(self._found):
            low, high = self._found.min(axis=0), self._found.max(axis=0)
        span = np.where(high > low, high - low, 1.0)
        out = np.empty((len(results), 2))
        for i, result in enumerate(results):
            missed = violation(result)
            if result.losses is None:
                out[i] = high + span
            elif missed > 0.0:
                out[i] = high + span * (0.1 + 0.8 * missed / (1.0 + missed))
            else:
                out[i] = result.losses
        return out
