"""The tree-structured Parzen estimator on Optuna."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from evomerge.core.digest import Scalar
from evomerge.core.space import Axis, SearchSpace, When
from evomerge.core.trial import Point
from evomerge.strategies.ask_tell_guard import AskTellGuard
from evomerge.strategies.base import Proposal, Told
from evomerge.strategies.via_optuna.rows import Place, Rows, outward, seed_at


class TpeStrategy:
    """Tree-structured Parzen estimator, multivariate, with constant liar.

    (Bergstra et al. 2011; Watanabe 2023, arXiv 2304.11127.) Axes under one condition
    are sampled jointly.

    Attributes:
        ask_seconds: Wall seconds of each ask so far; they grow with the history.
    """

    def __init__(
        self,
        rows: Rows,
        turns: AskTellGuard,
        *,
        generation_size: int,
        seed: int,
        options: Mapping[str, Any],
    ) -> None:
        self._rows = rows
        self._turns = turns
        self._size = generation_size
        self._seed = seed
        self._options = options
        self._groups = _groups(rows.space)
        self.ask_seconds: list[float] = []

    @property
    def is_fold(self) -> bool:
        """State comes only from repeating every ask and tell: no."""
        return False

    @property
    def generation_size(self) -> int:
        """Number of candidates a generation."""
        return self._size

    def ask(self, generation: int) -> Proposal:
        """Propose a generation; see ``Strategy.ask``."""
        self._turns.ask(generation)
        began = time.perf_counter()
        points = tuple(self._ask((generation, index)) for index in range(self._size))
        self.ask_seconds.append(time.perf_counter() - began)
        return Proposal(points)

    def _ask(self, place: Place) -> Point:
        sampler = optuna.samplers.TPESampler(
            n_startup_trials=self._options["startup"],
            n_ei_candidates=self._options["candidates"],
            multivariate=True,
            constant_liar=True,
            seed=seed_at(self._seed, place),
        )
        rows = self._rows
        trial = rows.open(place)
        point: dict[str, Scalar] = {}
        for condition, axes in self._groups:
            if condition is None or condition.holds(point):
                found = rows.sample(sampler, trial, axes)
                for axis in axes:
                    point[axis.name] = outward(axis, found[axis.name])
                    rows.write(place, axis, point[axis.name])
        return _in_order(rows.space, point)

    def tell(
        self, generation: int, proposal: Proposal, results: Sequence[Told]
    ) -> None:
        """Take the results into the rows; see ``Strategy.tell``."""
        self._turns.tell(generation, proposal, results)
        for index, result in enumerate(results):
            place = (generation, index)
            if place not in self._rows.ids:
                self._rows.open(place)
                for axis in self._rows.space.axes:
                    if axis.name in result.point:
                        self._rows.write(place, axis, result.point[axis.name])
            # A pruned row counts among the bad ones; a failed row would be ignored,
            # and the sampler would go back to where candidates die.
            self._rows.close(place, result, TrialState.PRUNED)
        self._rows.drop_rest(generation, len(results))


def _in_order(space: SearchSpace, point: Mapping[str, Scalar]) -> Point:
    return {axis.name: point[axis.name] for axis in space.axes if axis.name in point}


def _groups(space: SearchSpace) -> list[tuple[When, list[Axis]]]:
    """Group axes by condition; a condition's own axis stands in an earlier group."""
    found: list[tuple[When, list[Axis]]] = []
    for axis in space.axes:
        for condition, axes in found:
            if condition == axis.when:
                axes.append(axis)
                break
        else:
            found.append((axis.when, [axis]))
    return found
