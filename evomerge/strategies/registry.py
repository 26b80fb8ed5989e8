"""Strategies by name: what each is called, takes and cannot do, as data.

The wiring layer asks ``problems`` before a study starts and ``make_strategy`` when it
does; docs and help are written from ``KINDS``. The library behind a strategy loads
only when that strategy is made.
"""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from typing import Any

from evomerge.core.space import ChoiceAxis, SearchSpace
from evomerge.core.study import StrategySettings
from evomerge.errors import EvomergeError
from evomerge.strategies.base import Strategy
from evomerge.strategies.options import Kind, Option
from evomerge.strategies.turns import Turns


def _cma_size(n_axes: int) -> int:
    return 4 + int(3 * math.log(max(n_axes, 1)))  # Hansen 2016, table 1


KINDS: Mapping[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "cma",
            "CMA-ES with restarts (pycma): the first choice for spaces of numbers "
            "and one objective.",
            (
                Option(
                    "sigma",
                    "float",
                    0.2,
                    "First step size, as a share of each axis.",
                    low=1e-3,
                    high=1.0,
                ),
                Option(
                    "restarts",
                    "choice",
                    "ipop",
                    "What follows a converged run: ipop doubles the generation, bipop "
                    "alternates large and small ones, none goes on.",
                    choices=("ipop", "bipop", "none"),
                ),
                Option(
                    "diagonal",
                    "bool",
                    False,
                    "Learn a diagonal covariance only: faster adaptation where axes "
                    "do not interact, or above about 100 axes.",
                ),
            ),
            _cma_size,
            least=4,
            numeric_only=True,
            one_objective=True,
        ),
        Kind(
            "tpe",
            "Tree-structured Parzen estimator (Optuna): for categorical or "
            "conditional axes, any number of objectives, up to a few thousand trials.",
            (
                Option(
                    "startup",
                    "int",
                    10,
                    "Scored candidates drawn at random before the model is used.",
                    low=1,
                    high=100_000,
                ),
                Option(
                    "candidates",
                    "int",
                    24,
                    "Draws compared for each candidate.",
                    low=1,
                    high=10_000,
                ),
            ),
            lambda n_axes: 8,
        ),
        Kind(
            "nsga2",
            "NSGA-II (Optuna): a population for several objectives and hundreds of "
            "trials; the generation size is the population.",
            (
                Option(
                    "crossover",
                    "choice",
                    "uniform",
                    "How numbers of two parents mix: uniform takes each from one "
                    "parent, sbx draws near them.",
                    choices=("uniform", "sbx"),
                ),
                Option(
                    "crossover_rate",
                    "float",
                    0.9,
                    "Share of children with two parents.",
                    low=0.0,
                    high=1.0,
                ),
                Option(
                    "swapping",
                    "float",
                    0.5,
                    "Chance that an axis comes from the second parent.",
                    low=0.0,
                    high=1.0,
                ),
                Option(
                    "mutation_rate",
                    "float",
                    None,
                    "Chance that an axis is drawn anew; 1 / axes where not given.",
                    low=0.0,
                    high=1.0,
                ),
            ),
            lambda n_axes: 24,
            least=2,
        ),
        Kind(
            "random",
            "Uniform random points: the yardstick.",
            (),
            lambda n_axes: 8,
        ),
    )
}


def generation_size(settings: StrategySettings, space: SearchSpace) -> int:
    """Return how many candidates a generation has, before any restart."""
    usual = KINDS[settings.kind].generation_size(len(space.axes))
    return usual if settings.generation_size is None else settings.generation_size


def problems(
    settings: StrategySettings, space: SearchSpace, n_objectives: int
) -> list[str]:
    """List everything wrong with a choice of strategy, each with the next step."""
    kind = KINDS.get(settings.kind)
    if kind is None:
        known = ", ".join(KINDS)
        return [
            f"unknown strategy {settings.kind!r}{_nearest(settings.kind, KINDS)}; "
            f"known: {known}"
        ]
    found = [*_option_problems(kind, settings.options)]
    size = settings.generation_size
    if size is not None and size < kind.least:
        found.append(
            f"{kind.name} needs a generation_size of at least {kind.least}, got {size}"
        )
    if kind.numeric_only and not space.is_numeric:
        names = [axis.name for axis in space.axes if isinstance(axis, ChoiceAxis)]
        found.append(
            f"{kind.name} searches numbers, not categorical axes "
            f"({', '.join(names)}); use tpe or nsga2, or decide these axes"
        )
    if kind.one_objective and n_objectives != 1:
        found.append(
            f"{kind.name} takes one objective, got {n_objectives}; use tpe or nsga2, "
            "or join them into one objective of several measures with 'worst'"
        )
    return found


def _option_problems(kind: Kind, options: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in options.items():
        option = kind.option(name)
        if option is None:
            known = [option.name for option in kind.options]
            listed = ", ".join(known) or "none"
            found.append(
                f"{kind.name} has no option {name!r}{_nearest(name, known)}; "
                f"known: {listed}"
            )
        elif wrong := option.problem(value):
            found.append(f"option {name!r} of {kind.name}: {wrong}")
    return found


def _nearest(name: str, known: Any) -> str:
    close = difflib.get_close_matches(str(name), list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""


def make_strategy(
    settings: StrategySettings,
    space: SearchSpace,
    *,
    n_objectives: int,
    n_constraints: int,
    seed: int,
) -> Strategy:
    """Build a strategy at its beginning, before any ask or tell.

    Args:
        settings: Which, and how.
        space: What it searches.
        n_objectives: Losses it will be told per candidate.
        n_constraints: Violations it will be told per candidate.
        seed: The study's seed; with the history it decides every proposal.

    Raises:
        EvomergeError: ``problems`` has something to say.
    """
    wrong = problems(settings, space, n_objectives)
    if wrong:
        raise EvomergeError("strategy: " + "; ".join(wrong) + ".")
    kind = KINDS[settings.kind]
    options = {option.name: option.default for option in kind.options}
    options.update(settings.options)
    turns = Turns(
        is_fold=kind.name == "cma",
        n_objectives=n_objectives,
        n_constraints=n_constraints,
    )
    size = generation_size(settings, space)
    if kind.name == "cma":
        from evomerge.strategies.cma import CmaStrategy

        return CmaStrategy(
            space, turns, generation_size=size, seed=seed, options=options
        )
    if kind.name == "random":
        from evomerge.strategies.baselines import RandomStrategy

        return RandomStrategy(space, turns, generation_size=size, seed=seed)
    from evomerge.strategies.via_optuna.nsga2 import Nsga2Strategy
    from evomerge.strategies.via_optuna.rows import Rows
    from evomerge.strategies.via_optuna.tpe import TpeStrategy

    made = TpeStrategy if kind.name == "tpe" else Nsga2Strategy
    rows = Rows(space, n_objectives)
    return made(rows, turns, generation_size=size, seed=seed, options=options)
