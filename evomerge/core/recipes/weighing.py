"""Weights that say the same: factors that multiply each other, or only a ratio.

Where weights and lambda are factors of one sum, weights that differ hold the product,
and equal ones leave it to lambda. Where only ratios count, the largest weight is one,
and equal ones have the usual value.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from evomerge.core.recipes.rewriting import Rewritten, Rule, same_but
from evomerge.core.recipes.settings import Settings

_NO_SUM = 1e-8
"""Weights that sum to less have no ratio: a merge refuses them, or takes their sum."""

SUMS = ("task_arithmetic", "dare_linear", "della_linear", "breadcrumbs")
ELECTIONS = ("ties", "dare_ties", "della", "breadcrumbs_ties")
"""By sum or count; staged ones may elect otherwise."""
_MEANS = ("linear", "lora_linear", "karcher", "multislerp")


def weighty(settings: Settings) -> tuple[int, ...]:
    """Return the inputs that a merge feels: the others may as well not be there."""
    operation, name = settings.operation, settings.operator.name
    everyone = tuple(range(len(operation.inputs)))
    elects = name in ELECTIONS or (name == "staged" and _is_by_weight(settings))
    if not elects and name not in (*SUMS, *_MEANS):
        return everyone
    weights = settings.numbers("weight")
    divides = settings.shared.get("normalize") is True
    # A weight counts in what a plain sum is divided by, whatever it is a weight of.
    by_density = settings.each.get("density", ()) if elects or not divides else ()
    nothing = {i for i, density in enumerate(by_density) if density == 0.0}
    if elects or (name in SUMS and not divides):
        nothing |= {i for i in everyone if operation.inputs[i] == operation.base}
    return tuple(i for i in everyone if weights[i] and i not in nothing)


def _is_by_weight(settings: Settings) -> bool:
    """Tell whether stages look at each input by itself, and weigh it."""
    choice = settings.choice
    return (
        choice("basis") == "none"
        and choice("sparsify") not in ("variance", "tall")
        and choice("consensus") != "mean_sign"
        and choice("reduce") in ("sum", "max")
    )


def narrow(value: float) -> float:
    """Return the shortest decimal that is the same number in fp32."""
    import numpy as np  # not needed to read a recipe

    with np.errstate(over="ignore"):
        found = float(str(np.float32(value)))
    return found + 0.0 if math.isfinite(found) else value


def _all_narrow(values: Sequence[float]) -> tuple[float, ...]:
    return tuple(narrow(value) for value in values)


def _are_alike(values: Sequence[float]) -> bool:
    return len(set(values)) == 1 and values[0] != 0.0


def _mean(settings: Settings) -> Rewritten | None:
    """Weigh ``linear``: by the factors themselves, whatever they were divided by."""
    weights = settings.numbers("weight")
    total = sum(weights)
    if not settings.flag("normalize"):
        factors = _all_narrow(weights)
    elif abs(total) < _NO_SUM:
        return None  # refused where it is merged
    else:
        factors = _all_narrow([weight / total for weight in weights])
    total = sum(factors)
    is_mean = abs(total) >= _NO_SUM and factors == _all_narrow(
        [factor / total for factor in factors]
    )
    return same_but(settings, {"weight": factors, "normalize": is_mean})


def _sum(settings: Settings) -> Rewritten | None:
    """Weigh a sum of differences."""
    weights, scale = settings.numbers("weight"), settings.number("lambda")
    divisor = sum(weights) if settings.flag("normalize") else 1.0
    divisor = 1.0 if abs(divisor) < _NO_SUM else divisor
    factors = _all_narrow([scale * weight / divisor for weight in weights])
    if _are_alike(factors):
        made, rest = (1.0,) * len(factors), factors[0]
    else:
        made, rest = factors, 1.0
    was = (*_all_narrow(weights), narrow(scale))
    # One factor alone is rounded once, wherever it stands; in a basis twice.
    alone = len(weights) == 1 and 1.0 in was and settings.operator.name in SUMS
    return same_but(
        settings,
        {"weight": made, "lambda": rest, "normalize": False},
        exact=not settings.flag("normalize") and (alone or was == (*made, rest)),
    )


def _scaled(settings: Settings) -> Rewritten | None:
    """Weigh what grows with its weights, but may change with their sign."""
    weights, scale = settings.numbers("weight"), settings.number("lambda")
    factors = _all_narrow([abs(scale) * weight for weight in weights])
    made, rest = factors, math.copysign(1.0, scale)
    if _are_alike(factors):
        made = (math.copysign(1.0, factors[0]),) * len(factors)
        rest *= abs(factors[0])
    is_same = (*weights, scale) == (*made, rest)
    return same_but(settings, {"weight": made, "lambda": rest}, exact=is_same)


def _ratio(settings: Settings) -> Rewritten | None:
    """Weigh what only the ratios of weights count in."""
    weights = settings.numbers("weight")
    largest = max(abs(weight) for weight in weights)
    knob = settings.operator.knob("weight")
    assert knob is not None
    if largest == 0.0 or (knob.default is None and abs(sum(weights)) < _NO_SUM):
        return None
    if _are_alike(weights):
        usual = 1.0 / len(weights) if knob.default is None else 1.0
        made = (math.copysign(usual, weights[0]),) * len(weights)
    else:
        made = _all_narrow([weight / largest for weight in weights])
    return same_but(settings, {"weight": made}, exact=made == weights)


def _elected(settings: Settings) -> Rewritten | None:
    return _ratio(settings) if settings.flag("normalize") else _scaled(settings)


def _in_bases(settings: Settings) -> Rewritten | None:
    """Weigh what is merged in shared bases, by the method that merges there."""
    inner = settings.choice("inner")
    if inner == "sum":
        return _sum(settings)
    # Vectors are merged by another rule than what tsv and iso make of matrices.
    return _elected(settings) if inner in ("ties", "dare_ties") else None


def _by_stages(settings: Settings) -> Rewritten | None:
    reduce = settings.choice("reduce")
    if reduce == "energy":
        return None
    return _ratio(settings) if reduce == "mean" else _scaled(settings)


def _on_the_sphere(settings: Settings) -> Rewritten | None:
    return _ratio(settings) if settings.flag("normalize") else None


WEIGHING: Mapping[str, Rule] = {
    "linear": _mean,
    **dict.fromkeys(SUMS, _sum),
    **dict.fromkeys(ELECTIONS, _elected),
    **dict.fromkeys(("tsv", "iso_c", "iso_cts"), _scaled),
    **dict.fromkeys(("lora_linear", "wudi", "karcher"), _ratio),
    **dict.fromkeys(("knots", "core_space"), _in_bases),
    "multislerp": _on_the_sphere,
    "staged": _by_stages,
}
"""Operator to how its weights are written."""
