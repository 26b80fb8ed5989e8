"""CMA-ES with restarts, on pycma: the default for spaces of numbers.

A fold: its state is whatever repeating the recorded asks and tells gives. Nothing is
pickled, because a loaded pycma object silently diverges (its archive is keyed by
Python's salted hash, and its sampler holds a copy of the random state).
"""

from __future__ import annotations

import contextlib
import math
import sys
import threading
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Told, scope
from evomerge.strategies.coordinates import Coordinates
from evomerge.strategies.ranks import order


@contextlib.contextmanager
def _without(name: str) -> Iterator[None]:
    """Keep a module from being loaded that is not loaded already."""
    if name in sys.modules:
        yield
        return
    sys.modules[name] = None  # type: ignore[assignment]
    try:
        yield
    finally:
        del sys.modules[name]


# Its surrogate models, unused here, would load it: longer than all the rest.
with warnings.catch_warnings(), _without("scipy.stats"):
    warnings.simplefilter("ignore")  # it warns when matplotlib is absent
    import cma

_ASK, _TELL, _BEGIN, _PLACE, _SIZE = range(5)  # phases: last part of a random scope

MAX_DOUBLINGS = 9
"""A population is never more than 2**9 times the first one (Auger and Hansen 2005)."""

FAILED_GENERATIONS = 2
"""All candidates failed this often in a row: the search moves elsewhere."""

_numpy_lock = threading.RLock()


@contextlib.contextmanager
def _numpy_scope(*key: int) -> Iterator[None]:
    """Give numpy's global generator the stream of one place, then put it back.

    pycma draws from the global generator, which any library may also use or reseed.
    Threads that draw from it meanwhile would disturb us, so ours are locked out.
    """
    with _numpy_lock, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # pycma warns of short or flat generations
        before = np.random.get_state()  # noqa: NPY002 - what pycma draws from
        seeds = np.random.SeedSequence(list(key)).generate_state(8)
        np.random.seed(seeds)  # noqa: NPY002
        try:
            yield
        finally:
            np.random.set_state(before)  # noqa: NPY002


def _global_randn(*shape: int) -> npt.NDArray[np.float64]:
    return np.random.randn(*shape)  # noqa: NPY002 - looked up now, never bound early


@dataclass(frozen=True, slots=True)
class _Run:
    """One descent between restarts.

    Attributes:
        number: 0 for the first.
        popsize: Candidates a generation.
        sigma: First step size, as a share of each axis.
        is_small: Belongs to the regime of small populations (BIPOP).
    """

    number: int
    popsize: int
    sigma: float
    is_small: bool = False


class CmaStrategy(GuardedStrategy):
    """Covariance matrix adaptation (Hansen 2016, arXiv 1604.00772), restarted.

    Restarts double the population (IPOP, Auger and Hansen 2005), or alternate with
    small ones (BIPOP, Hansen 2009), each from a new random place.

    The space has numbers only. A coordinate that does not exist at a point is sampled
    all the same and told back as sampled: neutral, as any other that the losses do not
    depend on. The generation size is that of the first run.
    """

    def __init__(self, setup: StrategySetup) -> None:
        super().__init__(setup)
        self._coordinates = Coordinates(self._space)
        self._n = len(self._space.axes)
        # pycma does not work in one dimension: a single axis gets an idle companion.
        self._n_spare = 1 if self._n == 1 else 0
        self._asked = np.empty((0, self._n + self._n_spare))
        self._spent = {False: 0, True: 0}  # evaluations of restarts: large, small
        self._doublings = 0
        self._failed_generations = 0
        start = self._coordinates.vector(self._space.start())
        self._run = _Run(0, self._size, float(self._options["sigma"]))
        self._es = self._begin(self._run, start)

    @property
    def generation_size(self) -> int:
        """Candidates a generation of the present run."""
        return self._run.popsize

    def _propose(self, generation: int) -> Proposal:
        reason = self._why_stop()
        if reason:
            self._run = self._next_run()
            place = scope(self._seed, self._run.number, _PLACE)
            self._es = self._begin(self._run, self._coordinates.draw(place))
            self._failed_generations = 0
        with _numpy_scope(self._seed, generation, _ASK):
            self._asked = np.array(self._es.ask())
        note = f"restart {self._run.number} ({reason})" if reason else None
        points = tuple(self._coordinates.point(v[: self._n]) for v in self._asked)
        return Proposal(points, note=note)

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Move the distribution."""
        if self._run.number:
            self._spent[self._run.is_small] += len(results)
        losses = order(results)
        if losses is None:
            # No order, nothing to learn: equal losses would drag the mean towards
            # whatever index comes first. The distribution stays; see _why_stop.
            self._failed_generations += 1
            return
        self._failed_generations = 0
        if len(results) <= self._run.popsize // 2:
            return  # a cut generation: fewer results than the update has weights
        told = [
            np.concatenate(
                [self._coordinates.told(result.point, v[: self._n]), v[self._n :]]
            )
            for result, v in zip(results, self._asked, strict=False)
        ]
        with _numpy_scope(self._seed, generation, _TELL):
            # check_points=False: the rounded points are near what was sampled, and
            # rescaling them would need pycma's memory of the unrounded ones.
            self._es.tell(told, list(losses), check_points=False)

    def _begin(self, run: _Run, start: npt.NDArray[np.float64]) -> Any:
        grid = self._coordinates
        # Below a tenth of a grid step a coordinate only collapses: every sample
        # rounds to one value, and the covariance matrix loses its rank.
        minstd = 0.1 * grid.grid
        minstd[grid.stepped] = 0.2  # pycma's own bound for whole numbers
        spare = self._n_spare
        options = {
            "popsize": run.popsize,
            "bounds": [[*grid.low, *[0.0] * spare], [*grid.high, *[1.0] * spare]],
            "CMA_stds": [*grid.scale, *[1.0] * spare],
            "minstd": [*minstd, *[1e-3] * spare],
            "integer_variables": list(grid.stepped),
            "CMA_diagonal": bool(self._options["diagonal"]),
            # Scores of a few items tie often: neither one flat generation nor a best
            # that stays the same for some proves that the run is over.
            "tolflatfitness": 3,
            "tolfun": 0,
            "tolfunhist": 0,
            "seed": np.nan,  # the global generator is seeded around every call
            "randn": _global_randn,
            "timeout": math.inf,
            "signals_filename": None,
            "verbose": -10,
            "verb_log": 0,
            "verb_disp": 0,
        }
        with _numpy_scope(self._seed, run.number, _BEGIN):
            return cma.CMAEvolutionStrategy(
                [*start, *[0.5] * spare], run.sigma, options
            )

    def _why_stop(self) -> str | None:
        """Say why the present run is over; None if it goes on."""
        if self._options["restarts"] == "none":
            return None
        if self._failed_generations >= FAILED_GENERATIONS:
            return "every candidate failed"
        grid = self._coordinates
        resolution = 0.5 * grid.grid
        resolution[grid.stepped] = 0.3  # just above the least spread of a step axis
        if (np.asarray(self._es.stds)[: self._n] < resolution).all():
            return "converged to the grid"
        return ", ".join(sorted(self._es.stop())) or None

    def _next_run(self) -> _Run:
        number = self._run.number + 1
        sigma = float(self._options["sigma"])
        if (
            self._options["restarts"] == "bipop"
            and self._spent[True] < self._spent[False]
        ):
            # Hansen 2009, section 2: a size between the first and half the largest
            # one, and a first step size down to a hundredth.
            first, second = scope(self._seed, number, _SIZE).random(2)
            largest = self._size * 2**self._doublings
            ratio = max(0.5 * largest / self._size, 1.0)
            popsize = int(self._size * ratio ** (first**2))
            return _Run(number, popsize, sigma * 10 ** (-2 * second), is_small=True)
        self._doublings = min(self._doublings + 1, MAX_DOUBLINGS)
        return _Run(number, self._size * 2**self._doublings, sigma)
