"""The catalogue itself: every operator evomerge knows, with its knobs, as data.

Names and knob names are mergekit's where mergekit has the operator, so that people find
what they know; where a default differs from mergekit's, the importer sets the knob.
Randomly masked and trimmed operators treat norms, biases and routers linearly, because
these few values sit far from zero and are worth more than their number.
"""

from collections.abc import Mapping
from dataclasses import replace

from evomerge.core.catalogue import Knob, Operator, Policy
from evomerge.errors import RecipeError

_VECTORS_LINEAR: Mapping[str, Policy] = {
    "norm": "linear",
    "bias": "linear",
    "router": "linear",
}

_SHARE = Knob(
    "weight",
    "float",
    None,
    "Share of each input in the average; 1/N each if not given.",
    low=0.0,
    high=1.0,
    per_input=True,
)
_WEIGHT = Knob(
    "weight",
    "float",
    1.0,
    "Factor on each input's difference from the base; negative to subtract it.",
    low=-0.5,
    high=2.0,
    per_input=True,
)
_LAMBDA = Knob(
    "lambda",
    "float",
    1.0,
    "Factor on the merged difference before it is added to the base.",
    low=0.1,
    high=2.5,
)
_NORMALIZE = Knob(
    "normalize",
    "choice",
    False,
    "Divide by the sum of the weights.",
    choices=(True, False),
)
_OPERATORS = (
    Operator(
        "linear",
        "Weighted average of the inputs' weights.",
        "Goodfellow et al. 2014 (1412.6544), Wortsman et al. 2022 (2203.05482)",
        (_SHARE, replace(_NORMALIZE, default=True)),
    ),
    Operator(
        "task_arithmetic",
        "Base plus a weighted sum of the inputs' differences from it.",
        "Ilharco et al. 2022 (2212.04089)",
        (_WEIGHT, _LAMBDA, _NORMALIZE),
        needs_base=True,
        takes_base=True,
    ),
)

CATALOGUE: Mapping[str, Operator] = {operator.name: operator for operator in _OPERATORS}
"""Operator name to operator."""


def find(name: str) -> Operator:
    """Return the operator of this name.

    Raises:
        RecipeError: There is none.
    """
    try:
        return CATALOGUE[name]
    except KeyError:
        raise RecipeError(
            f"Unknown operator {name!r}; the catalogue has {', '.join(CATALOGUE)}."
        ) from None
