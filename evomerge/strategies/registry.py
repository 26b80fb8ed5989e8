"""Strategies by name: what each is called, takes and cannot do, as data.

The wiring layer asks ``problems`` before a study starts and ``make_strategy`` when it
does; docs and help are written from ``KINDS``. The library behind a strategy loads
only when that strategy is made.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from evomerge import plugins
from evomerge.core.flow.size import n_points
from evomerge.core.nearest import suggestion
from evomerge.core.space import ChoiceAxis, SearchSpace
from evomerge.core.study import Sampling, StrategySettings
from evomerge.core.trial import Point
from evomerge.errors import EvomergeError, PluginError
from evomerge.strategies.ask_tell_guard import StrategySetup, by_values
from evomerge.strategies.base import Strategy
from evomerge.strategies.strategy_info import STRATEGIES, StrategyInfo

Maker = Callable[[StrategySetup], Strategy]
"""Builds a strategy at its beginning."""

FEW = 0.25
"""A smaller share of the items asks for larger generations."""

KINDS: dict[str, StrategyInfo] = dict(STRATEGIES)
"""Every strategy by name: those of the package, and those that were registered."""


def generation_size(settings: StrategySettings, space: SearchSpace) -> int:
    """Return how many candidates a generation has, before any restart."""
    usual = _info(settings.kind).generation_size(len(space.axes))
    return usual if settings.generation_size is None else settings.generation_size


def problems(
    settings: StrategySettings,
    space: SearchSpace,
    n_objectives: int,
    is_sampled: bool = False,
) -> list[str]:
    """List everything wrong with a choice of strategy, each with the next step.

    Args:
        settings: The choice.
        space: What is searched.
        n_objectives: How many there are.
        is_sampled: Each generation answers other items.
    """
    try:
        kind = _info(settings.kind)
    except KeyError:
        names = list(dict.fromkeys([*KINDS, *plugins.known("strategies")]))
        hint = suggestion(settings.kind, names, "; ")
        return [f"unknown strategy {settings.kind!r}{hint}; known: {', '.join(names)}"]
    except PluginError as error:
        return [f"{error}".rstrip(".")]
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
            f"({', '.join(names)}); use {_others(n_objectives)}, or decide these axes"
        )
    n_numbers = sum(
        not isinstance(axis, ChoiceAxis) and axis.n_values > 2 for axis in space.axes
    )
    if kind.most_numbers is not None and n_numbers > kind.most_numbers:
        found.append(
            f"{kind.name} learns how every two numbers go together, of at most "
            f"{kind.most_numbers} numbers, got {n_numbers}; use tpe, nsga2 or climb, "
            "or search fewer of them"
        )
    if kind.most_points is not None:
        found += _size_problems(kind.name, kind.most_points, space)
    if wrong := _objective_problem(kind, n_objectives):
        found.append(wrong)
    if is_sampled:
        found += _sampling_problems(kind, n_objectives)
    return found


def _sampling_problems(kind: StrategyInfo, n_objectives: int) -> list[str]:
    if n_objectives > 1:
        return [
            f"an items.share below 1 is for one objective, got {n_objectives}: what is "
            "better in one of them on other items is no trade-off; leave it out, or "
            "join them into one objective of several measures with 'worst'"
        ]
    if not kind.is_elitist:
        return []
    names = [one.name for one in KINDS.values() if not one.is_elitist]
    return [
        f"{kind.name} compares candidates with those of earlier generations, which "
        f"with an items.share below 1 answered other items; use {', '.join(names)}, or "
        "leave items.share out"
    ]


def widened(
    settings: StrategySettings, space: SearchSpace, sampling: Sampling | None
) -> StrategySettings:
    """Return settings whose generations are large enough for the items they answer.

    A small generation on few items loses its way: differences between its candidates
    are mostly luck. Where the study does not say how large it is, it is twice as large.
    """
    if sampling is None or sampling.share >= FEW or settings.generation_size:
        return settings
    return replace(settings, generation_size=2 * generation_size(settings, space))


def _size_problems(name: str, most: int, space: SearchSpace) -> list[str]:
    """Say whether a space has too many points, and which axes have most."""
    n = n_points(space)
    if n is None:  # not counted without listing them
        n = sum(1 for _ in islice(space.points(), most + 1))
    if n <= most:
        return []
    widest = sorted(space.axes, key=lambda axis: axis.n_values, reverse=True)[:3]
    told = ", ".join(f"{axis.name} {axis.n_values}" for axis in widest)
    return [
        f"{name} proposes every point, of at most {most}, and this space has more "
        f"(values: {told}); give numbers a coarser 'grid', decide some, or use random"
    ]


def _objective_problem(kind: StrategyInfo, n_objectives: int) -> str | None:
    least, most = kind.least_objectives, kind.most_objectives
    if most == 1 and n_objectives > 1:
        return (
            f"{kind.name} takes one objective, got {n_objectives}; use "
            f"{_others(n_objectives)}, or join them into one objective of several "
            "measures with 'worst'"
        )
    if most is not None and n_objectives > most:
        return (
            f"{kind.name} takes at most {most} objectives, got {n_objectives}; use "
            f"{_others(n_objectives)}"
        )
    if n_objectives < least:
        return (
            f"{kind.name} is for {least} objectives or more, got {n_objectives}; use "
            f"{_others(n_objectives)}"
        )
    return None


def _others(n_objectives: int) -> str:
    """Name the strategies that fit, best known first; random fits always."""
    names = [
        kind.name
        for kind in KINDS.values()
        if kind.least_objectives <= n_objectives
        and (kind.most_objectives or n_objectives) >= n_objectives
        and not kind.numeric_only
        and kind.most_points is None
        and kind.name != "random"
    ]
    return " or ".join(filter(None, [", ".join(names[:-1]), names[-1]]))


def _option_problems(kind: StrategyInfo, options: Mapping[str, Any]) -> list[str]:
    found = []
    for name, value in options.items():
        option = kind.option(name)
        if option is None:
            known = [option.name for option in kind.options]
            hint = suggestion(name, known, "; ")
            listed = ", ".join(known) or "none"
            found.append(f"{kind.name} has no option {name!r}{hint}; known: {listed}")
        elif wrong := option.problem(value):
            found.append(f"option {name!r} of {kind.name}: {wrong}")
    return found


def make_strategy(
    settings: StrategySettings,
    space: SearchSpace,
    *,
    n_objectives: int,
    n_constraints: int,
    seed: int,
    identity: Callable[[Point], Hashable] = by_values,
) -> Strategy:
    """Build a strategy at its beginning, before any ask or tell.

    Args:
        settings: Which, and how.
        space: What it searches.
        n_objectives: Losses it will be told per candidate.
        n_constraints: Violations it will be told per candidate.
        seed: The study's seed; with the history it decides every proposal.
        identity: What is equal for points that stand for one merge.

    Raises:
        EvomergeError: ``problems`` has something to say.
    """
    wrong = problems(settings, space, n_objectives)
    if wrong:
        raise EvomergeError("strategy: " + "; ".join(wrong) + ".")
    info = _info(settings.kind)
    options = {option.name: option.default for option in info.options}
    setup = StrategySetup(
        space,
        generation_size(settings, space),
        seed,
        {**options, **settings.options},
        is_fold=info.is_fold,
        n_objectives=n_objectives,
        n_constraints=n_constraints,
        identity=identity,
    )
    return _MAKERS[settings.kind](setup)


def _info(kind: str) -> StrategyInfo:
    """Return what a strategy is; of another package it is loaded the first time.

    Raises:
        KeyError: There is none of this name.
        PluginError: Its package may not be loaded, or is broken.
    """
    if kind not in KINDS and (part := plugins.find("strategies", kind)) is not None:
        if not isinstance(getattr(part, "info", None), StrategyInfo):
            raise PluginError(
                f"{kind!r} is no strategy: expected a class with `info`, a "
                "StrategyInfo, that is made of a StrategySetup."
            )
        register(replace(part.info, name=kind), part)
    return KINDS[kind]


def register(info: StrategyInfo, make: Maker) -> None:
    """Make a strategy known, so that studies of this process may ask for it by name.

    Args:
        info: Its name, options and limits.
        make: Builds it; ``GuardedStrategy`` is a class to inherit for it.

    Raises:
        ValueError: There is one of this name.
    """
    if info.name in KINDS:
        raise ValueError(f"There is a strategy {info.name!r} already.")
    KINDS[info.name], _MAKERS[info.name] = info, make


def _cma(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.cma import CmaStrategy

    return CmaStrategy(setup)


def _catcma(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.catcma import CatcmaStrategy

    return CatcmaStrategy(setup)


def _comocatcma(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.catcma import ComocatcmaStrategy

    return ComocatcmaStrategy(setup)


def _tpe(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.tpe import TpeStrategy

    return TpeStrategy(setup)


def _nsga2(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.genetic.nsga import NsgaStrategy
    from evomerge.strategies.genetic.survival import Crowded

    return NsgaStrategy(setup, Crowded())


def _nsga3(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.genetic.nsga import NsgaStrategy
    from evomerge.strategies.genetic.survival import Referenced

    return NsgaStrategy(setup, Referenced(setup.n_objectives, setup.generation_size))


def _climb(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.genetic.hill_climb import ClimbStrategy

    return ClimbStrategy(setup)


def _grid(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.grid import GridStrategy

    return GridStrategy(setup)


def _random(setup: StrategySetup) -> Strategy:
    from evomerge.strategies.random_search import RandomStrategy

    return RandomStrategy(setup)


_MAKERS: dict[str, Maker] = {
    "cma": _cma,
    "catcma": _catcma,
    "comocatcma": _comocatcma,
    "tpe": _tpe,
    "nsga2": _nsga2,
    "nsga3": _nsga3,
    "climb": _climb,
    "grid": _grid,
    "random": _random,
}
