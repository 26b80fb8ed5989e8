"""Named procedures over checkpoint sets, as data.

What a training procedure leaves behind is a list of checkpoints; what is merged of it
is a weighted sum with certain weights. A preset turns such a list and its knobs into
plain ``linear`` or ``task_arithmetic``, so a recipe never names a preset: the same
weights written by hand have the same digest.

Checkpoints are the merged inputs, in the order in which they were saved.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from evomerge.core.checkpoint_weights import (
    ALPHA,
    BEYOND,
    COUNT,
    DECAY,
    LAMBDA,
    LATEST,
    LORA_SPACE,
    MU,
    SPACING,
    START,
    STRIDE,
    Values,
    Weights,
    analogous,
    away,
    beyond,
    from_start,
    latest,
    moving,
    part,
    preferred,
    step,
    uniform,
)
from evomerge.core.digest import Scalar
from evomerge.core.operators import known
from evomerge.core.operators.catalogue import Knob, Operator, Policy, holds
from evomerge.core.recipes.operation import Operation
from evomerge.errors import RecipeError


@dataclass(frozen=True, slots=True)
class Preset:
    """A procedure over a set of checkpoints.

    Attributes:
        operator: Its name, knobs and needs, in the form of the catalogue.
        weights: The weight of every checkpoint.
        becomes: The operator of the catalogue that carries it out; ``lora_linear``
            where adapters' factors are averaged.
    """

    operator: Operator
    weights: Weights
    becomes: Literal["linear", "task_arithmetic"] = "linear"


def expand(operation: Operation) -> Operation:
    """Return the plain operation that a preset stands for; others as they are.

    Raises:
        RecipeError: The preset merges another number of inputs.
    """
    preset = PRESETS.get(operation.operator)
    if preset is None:
        return operation
    operator, inputs = preset.operator, operation.inputs
    if not operator.takes(len(inputs)):
        raise RecipeError(
            f"Preset {operator.name!r} merges {operator.wanted_inputs} input(s), but "
            f"got {len(inputs)}: {list(inputs)}."
        )
    values = _values(operator, operation)
    weights = preset.weights(len(inputs), values)
    becomes = "lora_linear" if _averages_factors(operator, values) else preset.becomes
    if becomes == "task_arithmetic":
        shared: tuple[tuple[str, Scalar], ...] = (("lambda", 1.0), ("normalize", False))
    else:
        shared = (("normalize", True),) if becomes == "linear" else ()
        # What has no part in an average need not be read.
        kept = [i for i, weight in enumerate(weights) if weight] or range(len(inputs))
        inputs = tuple(inputs[i] for i in kept)
        weights = tuple(weights[i] for i in kept)
    each = (("weight", weights),)
    return Operation(becomes, inputs, operation.base, shared, each)


def operator_named(name: str) -> Operator | None:
    """Return the operator or preset that may be written for ``operator``."""
    preset = PRESETS.get(name)
    return known(name) if preset is None else preset.operator


def _values(operator: Operator, operation: Operation) -> Values:
    """Return every knob of a preset, defaults filled in."""
    n = len(operation.inputs)
    shared = {name: (value,) for name, value in operation.shared}
    given: dict[str, tuple[Scalar, ...]] = {**shared, **dict(operation.each)}
    for knob in operator.knobs:
        usual = 1.0 / n if knob.default is None else knob.default
        given.setdefault(knob.name, (usual,) * (n if knob.per_input else 1))
    return given


def _averages_factors(operator: Operator, values: Values) -> bool:
    wanted = operator.factors_with
    chosen = {name: each[0] for name, each in values.items()}
    return wanted is not None and holds(wanted, chosen)


_BASE_KEPT: Mapping[str, Policy] = {
    "embed": "base",
    "head": "base",
    "norm": "base",
    "bias": "base",
}
"""What is forgotten of a task is not in the vocabulary or in the norms."""


def _average(
    name: str, summary: str, source: str, weights: Weights, *knobs: Knob
) -> Preset:
    with_factors = ((LORA_SPACE.name, ("factors",)),) if LORA_SPACE in knobs else None
    found = Operator(name, summary, source, knobs, factors_with=with_factors)
    return Preset(found, weights)


def _difference(
    operator: tuple[str, str, str],
    weights: Weights,
    knob: Knob,
    *,
    n_inputs: int | None = None,
    policies: Mapping[str, Policy] | None = None,
) -> Preset:
    found = Operator(
        *operator,
        (knob,),
        base="needed",
        n_inputs=n_inputs,
        policies=policies,
    )
    return Preset(found, weights, "task_arithmetic")


_SOUPS = (
    (
        "uniform_soup",
        "Mean of fine-tuned models.",
        "Wortsman et al. 2022 (2203.05482)",
    ),
    (
        "fusing",
        "Mean of fine-tuned models, as a new base for the next fine-tuning.",
        "Choshen et al. 2022 (2204.03044)",
    ),
    (
        "lo_fi",
        "Mean of workers that were fine-tuned without communication.",
        "Wortsman et al. 2022 (2210.11948)",
    ),
    (
        "ratatouille",
        "Mean of models fine-tuned on the target from auxiliary tasks.",
        "Rame et al. 2022 (2212.10445)",
    ),
    (
        "diwa",
        "Mean of diverse runs from one initialisation.",
        "Rame et al. 2022 (2205.09739)",
    ),
    (
        "warm",
        "Mean of reward models.",
        "Rame et al. 2024 (2401.12187)",
    ),
    (
        "unival",
        "Mean of fine-tunes on tasks of several modalities.",
        "Shukor et al. 2023 (2307.16184)",
    ),
)
"""Name, summary and source of plain means."""

_ALL = (
    _average(
        "swa",
        "Mean of a run's checkpoints, from a start on, every so many.",
        "Izmailov et al. 2018 (1803.05407)",
        from_start,
        START,
        STRIDE,
        COUNT,
    ),
    _average(
        "lawa",
        "Mean of a run's latest checkpoints.",
        "Kaddour 2022 (2209.14981)",
        latest,
        LATEST,
        STRIDE,
    ),
    _average(
        "early_averaging",
        "Mean of a few latest checkpoints of a run, widely spaced.",
        "Sanyal et al. 2023 (2306.03241)",
        latest,
        LATEST,
        SPACING,
    ),
    _average(
        "ema",
        "Exponential moving average along a run, from its first checkpoint.",
        "Sanyal et al. 2023 (2306.03241)",
        moving,
        DECAY,
    ),
    *(_average(*row, uniform) for row in _SOUPS),
    _average(
        "rewarded_soups",
        "Average of models tuned on different rewards, by preference.",
        "Rame et al. 2023 (2306.04488)",
        preferred,
        MU,
        LORA_SPACE,
    ),
    _difference(
        (
            "cold_fusion",
            "One round: the base plus the mean difference of its fine-tunes.",
            "Don-Yehiya et al. 2022 (2212.01378)",
        ),
        step,
        LAMBDA,
    ),
    _difference(
        (
            "wise_ft",
            "Interpolation from a base to its fine-tune.",
            "Wortsman et al. 2021 (2109.01903)",
        ),
        part,
        ALPHA,
        n_inputs=1,
    ),
    _difference(
        (
            "expo",
            "Extrapolation from a base (SFT) past its aligned model.",
            "Zheng et al. 2024 (2404.16792)",
        ),
        beyond,
        BEYOND,
        n_inputs=1,
    ),
    _difference(
        (
            "negation",
            "The base without what was learned in fine-tuning.",
            "Ilharco et al. 2022 (2212.04089)",
        ),
        away,
        LAMBDA,
        policies=_BASE_KEPT,
    ),
    _difference(
        (
            "analogy",
            "What the third input has, and the second has beyond the first.",
            "Ilharco et al. 2022 (2212.04089)",
        ),
        analogous,
        LAMBDA,
        n_inputs=3,
    ),
)

PRESETS: Mapping[str, Preset] = {preset.operator.name: preset for preset in _ALL}
"""What may be written for ``operator`` beside the operators of the catalogue."""
