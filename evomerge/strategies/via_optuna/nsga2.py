"""NSGA-II on Optuna."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import optuna
from optuna.trial import TrialState

from evomerge.core.digest import Scalar
from evomerge.core.trial import Point
from evomerge.strategies.base import Proposal, Told
from evomerge.strategies.turns import Turns
from evomerge.strategies.via_optuna.rows import Place, Rows, outward, seed_at


class Nsga2Strategy:
    """NSGA-II (Deb et al. 2002): fronts and crowding, for several objectives.

    Every candidate carries all axes; those its choices switch off are kept as hidden
    genes, and recorded, so that crossover always finds whole parents. The parents of
    a generation are recorded too: Optuna decides them once and keeps them.
    """

    def __init__(
        self,
        rows: Rows,
        turns: Turns,
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

    @property
    def is_fold(self) -> bool:
        """State comes only from repeating every ask and tell: no."""
        return False

    @property
    def generation_size(self) -> int:
        """Number of candidates a generation: the population."""
        return self._size

    def ask(self, generation: int) -> Proposal:
        """Propose a generation; see ``Strategy.ask``."""
        self._turns.ask(generation)
        sampler = self._sampler((generation, 0))
        # Optuna counts generations from 0. This call decides the parents and keeps
        # them in the study, so that all samplers below find the same.
        parents = sampler.get_parent_population(self._rows.study, generation - 1)
        asked = [
            self._ask((generation, index), len(parents)) for index in range(self._size)
        ]
        places = [list(self._rows.places[trial._trial_id]) for trial in parents]
        memory = {"parents": places, "hidden": [hidden for _, hidden in asked]}
        return Proposal(tuple(point for point, _ in asked), memory=memory)

    def _ask(self, place: Place, n_parents: int) -> tuple[Point, dict[str, Scalar]]:
        rows = self._rows
        sampler = self._sampler(place)
        trial = self._open(place)
        axes = rows.space.axes
        if n_parents >= 2:
            found = rows.sample(sampler, trial, axes)
        else:  # the first generation, or hardly anything survived: no two parents
            found = {axis.name: rows.alone(sampler, trial, axis) for axis in axes}
        genes = {axis.name: outward(axis, found[axis.name]) for axis in axes}
        for axis in axes:
            rows.write(place, axis, genes[axis.name])
        point: dict[str, Scalar] = {}
        for axis in axes:
            if axis.when is None or axis.when.holds(point):
                point[axis.name] = genes[axis.name]
        return point, {name: v for name, v in genes.items() if name not in point}

    def tell(
        self, generation: int, proposal: Proposal, results: Sequence[Told]
    ) -> None:
        """Take results and recorded parents into the rows; see ``Strategy.tell``."""
        self._turns.tell(generation, proposal, results)
        if (generation, 0) not in self._rows.ids:
            self._restore(generation, proposal, len(results))
        for index, result in enumerate(results):
            self._rows.close((generation, index), result, TrialState.FAIL)
        self._rows.drop_rest(generation, len(results))

    def _restore(self, generation: int, proposal: Proposal, n: int) -> None:
        rows = self._rows
        parents = [rows.ids[g, i] for g, i in proposal.memory["parents"]]
        key = optuna.samplers.NSGAIISampler._get_parent_cache_key_prefix()
        rows.storage.set_study_system_attr(
            rows.study_id, f"{key}{generation - 1}", parents
        )
        for index in range(n):
            genes = {**proposal.points[index], **proposal.memory["hidden"][index]}
            self._open((generation, index))
            for axis in rows.space.axes:
                rows.write((generation, index), axis, genes[axis.name])

    def _open(self, place: Place) -> Any:
        # Optuna would derive the generation from the number of complete trials, and a
        # failed candidate would make it fill one generation from the next.
        trial = self._rows.open(place)
        key = optuna.samplers.NSGAIISampler._get_generation_key()
        self._rows.storage.set_trial_system_attr(trial._trial_id, key, place[0] - 1)
        return self._rows.storage.get_trial(trial._trial_id)

    def _sampler(self, place: Place) -> Any:
        options = self._options
        return optuna.samplers.NSGAIISampler(
            population_size=self._size,
            crossover=_crossover(options["crossover"], float(options["swapping"])),
            crossover_prob=float(options["crossover_rate"]),
            swapping_prob=float(options["swapping"]),
            mutation_prob=options["mutation_rate"],
            seed=seed_at(self._seed, place),
        )


def _crossover(name: str, swapping: float) -> Any:
    if name == "uniform":
        return optuna.samplers.nsgaii.UniformCrossover(swapping)
    with warnings.catch_warnings():
        # Marked experimental since 3.0; Optuna is pinned, and replay is tested.
        warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
        return optuna.samplers.nsgaii.SBXCrossover()
