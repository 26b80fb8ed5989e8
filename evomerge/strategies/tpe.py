"""The tree-structured Parzen estimator, on Optuna's sampler; the only door to optuna.

A function of the rows: each candidate is asked of a new sampler, seeded by (seed,
generation, index), on an in-memory study that holds exactly what was told. Optuna's own
ask is not used: the sampler is called axis by axis along the space's conditions, so
that what enters the study is already rounded to the grid, and no grouping of axes has
to be guessed from the trials.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.trial import TrialState

from evomerge.core.digest import Scalar
from evomerge.core.space import Axis, ChoiceAxis, IntAxis, SearchSpace, When
from evomerge.core.trial import Point
from evomerge.strategies.ask_tell_guard import GuardedStrategy, StrategySetup
from evomerge.strategies.base import Proposal, Told, scope

Place = tuple[int, int]
"""Generation and index of a candidate."""


class Rows:
    """An in-memory Optuna study that holds the candidates of a search.

    Floats are kept as unit coordinates, choices as positions; so no sampler ever
    sees a logarithm, a step, or ``True`` beside ``1``.
    """

    def __init__(self, space: SearchSpace, n_objectives: int) -> None:
        self.space = space
        self.distributions = {axis.name: _distribution(axis) for axis in space.axes}
        self.storage = optuna.storages.InMemoryStorage()
        self._unused = optuna.samplers.RandomSampler(seed=0)  # or Optuna makes its own
        level = optuna.logging.get_verbosity()
        optuna.logging.set_verbosity(optuna.logging.WARNING)  # it announces studies
        try:
            optuna.create_study(
                study_name="rows",
                storage=self.storage,
                sampler=self._unused,
                directions=["minimize"] * n_objectives,
            )
        finally:
            optuna.logging.set_verbosity(level)
        self.study_id = self.storage.get_study_id_from_name("rows")
        self.ids: dict[Place, int] = {}
        self.places: dict[int, Place] = {}

    @property
    def study(self) -> Any:
        """A study object that has seen nothing yet.

        One kept for longer remembers the trials it saw first, and only Optuna's own
        ask makes it look again: a stale count would steer the sampler.
        """
        return optuna.load_study(
            study_name="rows", storage=self.storage, sampler=self._unused
        )

    def open(self, place: Place) -> Any:
        """Begin a row and return Optuna's view of it."""
        trial_id = self.storage.create_new_trial(self.study_id)
        self.ids[place] = trial_id
        self.places[trial_id] = place
        return self.storage.get_trial(trial_id)

    def write(self, place: Place, axis: Axis, value: Scalar) -> None:
        """Note the rounded value of an axis."""
        distribution = self.distributions[axis.name]
        self.storage.set_trial_param(
            self.ids[place],
            axis.name,
            distribution.to_internal_repr(_inward(axis, value)),
            distribution,
        )

    def close(self, place: Place, result: Told | None, failed: TrialState) -> None:
        """Note a result; None for a candidate that was cut off untried."""
        trial_id = self.ids[place]
        if result is None:
            self.storage.set_trial_state_values(trial_id, TrialState.FAIL)
            return
        if result.losses is None:
            self.storage.set_trial_state_values(trial_id, failed)
            return
        trial = optuna.trial.Trial(self.study, trial_id)
        for index, missed in enumerate(result.violations):
            trial.set_constraint(str(index), missed)
        self.storage.set_trial_state_values(
            trial_id, TrialState.COMPLETE, list(result.losses)
        )

    def sample(self, sampler: Any, trial: Any, axes: Sequence[Axis]) -> dict[str, Any]:
        """Ask a sampler for axes that exist together: jointly, then one by one."""
        joint = {
            axis.name: self.distributions[axis.name]
            for axis in axes
            if not self.distributions[axis.name].single()
        }
        out = dict(sampler.sample_relative(self.study, trial, joint)) if joint else {}
        for axis in axes:
            if axis.name not in out:
                out[axis.name] = self.alone(sampler, trial, axis)
        return out

    def alone(self, sampler: Any, trial: Any, axis: Axis) -> Any:
        """Ask a sampler for one axis."""
        distribution = self.distributions[axis.name]
        if not distribution.single():
            return sampler.sample_independent(
                self.study, trial, axis.name, distribution
            )
        return 0 if isinstance(axis, ChoiceAxis) else axis.low

    def drop_rest(self, generation: int, index: int) -> None:
        """Take candidates from ``index`` on, asked but cut off, out of the running."""
        while (generation, index) in self.ids:
            self.close((generation, index), None, TrialState.FAIL)
            index += 1


def seed_at(seed: int, place: Place) -> int:
    """Return the seed of one candidate's sampler."""
    return int(scope(seed, *place).integers(2**32))


def _distribution(axis: Axis) -> BaseDistribution:
    if isinstance(axis, ChoiceAxis):
        return CategoricalDistribution(list(range(len(axis.choices))))
    if isinstance(axis, IntAxis):
        return IntDistribution(axis.low, axis.high)
    return FloatDistribution(0.0, 1.0)


def _inward(axis: Axis, value: Scalar) -> float | int:
    """Turn a value of the space into Optuna's terms."""
    if isinstance(axis, ChoiceAxis):
        alike = [(type(choice), choice) for choice in axis.choices]  # True is not 1
        return alike.index((type(value), value))
    if isinstance(axis, IntAxis):
        return int(value)
    return min(max(axis.unit(value), 0.0), 1.0)


def outward(axis: Axis, value: float) -> Scalar:
    """Turn Optuna's value into the nearest one of the space."""
    if isinstance(axis, ChoiceAxis):
        return axis.choices[int(value)]
    return int(value) if isinstance(axis, IntAxis) else axis.value(float(value))


class TpeStrategy(GuardedStrategy):
    """Tree-structured Parzen estimator, multivariate, with constant liar.

    (Bergstra et al. 2011; Watanabe 2023, arXiv 2304.11127.) Axes under one condition
    are sampled jointly.
    """

    def __init__(self, setup: StrategySetup) -> None:
        super().__init__(setup)
        self._rows = Rows(setup.space, setup.n_objectives)
        self._groups = _groups(setup.space)

    def _propose(self, generation: int) -> Proposal:
        return Proposal(
            tuple(self._ask((generation, index)) for index in range(self._size))
        )

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

    def _learn(self, generation: int, results: Sequence[Told]) -> None:
        """Take the results into the rows."""
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
