"""Every strategy as data: what it is called, takes and cannot do."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Option:
    """One setting of a strategy.

    Attributes:
        kind: Type of the value; ``choice`` takes one of ``choices``.
        default: Used where the study says nothing; None lets the strategy choose.
        low: Smallest value allowed (numbers only).
        high: Largest value allowed (numbers only).
    """

    name: str
    kind: str
    default: float | int | str | bool | None
    help: str
    low: float = -math.inf
    high: float = math.inf
    choices: tuple[str, ...] = ()

    def problem(self, value: Any) -> str | None:
        """Say what is wrong with a value; None if nothing is."""
        if value is None and self.default is None:
            return None
        if self.kind == "choice":
            wanted = "one of " + ", ".join(self.choices)
            fits = value in self.choices
        elif self.kind == "bool":
            wanted, fits = "true or false", isinstance(value, bool)
        else:
            number = int if self.kind == "int" else (int, float)
            wanted = f"a number of type {self.kind} from {self.low:g} to {self.high:g}"
            fits = (
                isinstance(value, number)
                and not isinstance(value, bool)
                and self.low <= value <= self.high
            )
        return None if fits else f"expected {wanted}, got {value!r}"


@dataclass(frozen=True, slots=True)
class StrategyInfo:
    """One strategy.

    Attributes:
        generation_size: Usual number of candidates a generation, given the number of
            axes.
        least: Smallest generation it can work with.
        numeric_only: It cannot search categorical axes.
        most_numbers: Most numbers of three values or more that it can search.
        most_points: Most points of a space that it can search; None for any number.
        least_objectives: Fewest objectives it makes sense for.
        most_objectives: Most objectives it can search; None for any number.
        is_fold: Its state comes from repeating every ask and tell.
        is_elitist: It keeps the best of earlier generations, to compare later ones with
            them; so all must have answered the same items.
    """

    name: str
    summary: str
    options: tuple[Option, ...]
    generation_size: Callable[[int], int]
    least: int = 1
    numeric_only: bool = False
    most_numbers: int | None = None
    most_points: int | None = None
    least_objectives: int = 1
    most_objectives: int | None = None
    is_fold: bool = False
    is_elitist: bool = False

    def option(self, name: str) -> Option | None:
        """Return the option of this name, if there is one."""
        return next((option for option in self.options if option.name == name), None)


def _cma_size(n_axes: int) -> int:
    return 4 + int(3 * math.log(max(n_axes, 1)))  # Hansen 2016, table 1


_NSGA = (
    Option(
        "crossover",
        "choice",
        "uniform",
        "How axes off the stack mix: uniform takes each from one parent, sbx draws "
        "numbers near the parents'. Stacks are cut and spliced.",
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
        "Chance that an axis off the stack comes from the second parent.",
        low=0.0,
        high=1.0,
    ),
    Option(
        "mutation_rate",
        "float",
        None,
        "Edits of a child, as a share of its axes; 1 / axes where not given.",
        low=0.0,
        high=1.0,
    ),
)

_SIGMA_OF_ALL = Option(
    "sigma",
    "float",
    0.2,
    "First step size, as a share of each axis; of a choice with a start, the chance "
    "to redraw it.",
    low=1e-3,
    high=1.0,
)

STRATEGIES: Mapping[str, StrategyInfo] = {
    kind.name: kind
    for kind in (
        StrategyInfo(
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
            most_objectives=1,
            is_fold=True,
        ),
        StrategyInfo(
            "catcma",
            "CatCMA with margin (cmaes): the same for numbers, choices and gates at "
            "once.",
            (
                _SIGMA_OF_ALL,
                Option(
                    "restarts",
                    "choice",
                    "ipop",
                    "What follows a run that proposes hardly anything new: ipop "
                    "doubles the generation, none goes on.",
                    choices=("ipop", "none"),
                ),
            ),
            _cma_size,
            least=4,
            most_objectives=1,
            most_numbers=1000,
            is_fold=True,
        ),
        StrategyInfo(
            "comocatcma",
            "COMO-CatCMA with margin (cmaes): a front of two objectives over numbers, "
            "choices and gates.",
            (
                _SIGMA_OF_ALL,
                Option(
                    "kernels",
                    "int",
                    3,
                    "Runs that share the front; each has a generation in turn.",
                    low=2,
                    high=1000,
                ),
            ),
            lambda n_axes: _cma_size(n_axes) + 1,
            least=5,
            least_objectives=2,
            most_objectives=2,
            most_numbers=1000,
            is_fold=True,
            is_elitist=True,
        ),
        StrategyInfo(
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
        StrategyInfo(
            "nsga2",
            "NSGA-II: a population for several objectives, on any space and on stacks "
            "above all; the generation size is the population.",
            _NSGA,
            lambda n_axes: 16,
            least=2,
            is_fold=True,
            is_elitist=True,
        ),
        StrategyInfo(
            "nsga3",
            "NSGA-III: the same for three and more objectives, kept apart along "
            "directions instead of by crowding.",
            _NSGA,
            lambda n_axes: 24,
            least=2,
            least_objectives=2,
            is_fold=True,
            is_elitist=True,
        ),
        StrategyInfo(
            "climb",
            "A hill climber on edits of one parent: the baseline for stacks; several "
            "objectives become one compromise.",
            (
                Option(
                    "edits",
                    "int",
                    None,
                    "Most edits of one child; half the places where not given. One is "
                    "the most frequent.",
                    low=1,
                    high=10_000,
                ),
            ),
            lambda n_axes: 8,
            is_fold=True,
            is_elitist=True,
        ),
        StrategyInfo(
            "grid",
            "Every point of a small space once, and of points that are one merge one.",
            (
                Option(
                    "order",
                    "choice",
                    "spread",
                    "spread shuffles the points by the study's seed, so that a part of "
                    "them is a fair sample; rows takes them axis by axis.",
                    choices=("spread", "rows"),
                ),
            ),
            lambda n_axes: 8,
            most_points=100_000,
        ),
        StrategyInfo(
            "random",
            "Uniform random points: the yardstick.",
            (),
            lambda n_axes: 8,
        ),
    )
}
"""Every strategy by name."""
