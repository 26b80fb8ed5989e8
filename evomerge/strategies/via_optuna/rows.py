"""The history of a search as an in-memory Optuna study."""

from __future__ import annotations

from collections.abc import Sequence
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
from evomerge.core.space import Axis, ChoiceAxis, IntAxis, SearchSpace
from evomerge.strategies.base import Told, scope

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
