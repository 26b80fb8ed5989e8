"""The catalogue itself: every operator evomerge knows, with its knobs, as data.

Names and knob names are mergekit's where mergekit has the operator, so that people find
what they know; where a default differs from mergekit's, the importer sets the knob.
Operators that trim, mask or rotate treat norms, biases and routers linearly: these few
values sit far from zero, and angles or sizes say little about them.
"""

from collections.abc import Mapping
from dataclasses import replace

from evomerge.core.catalogue import Knob, Operator, Policy
from evomerge.errors import RecipeError

_LINEAR_VECTORS: Mapping[str, Policy] = {
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
    choices=(False, True),
)
_NORMALIZE_AGREEING = replace(
    _NORMALIZE, help="Divide every entry by the sum of the weights that agree on it."
)
_TRIM_DENSITY = Knob(
    "density",
    "float",
    0.2,
    "Part of each input's differences kept, largest first.",
    low=0.05,
    high=1.0,
    per_input=True,
    grid=0.01,
    lowest=0.0,
    highest=1.0,
)
_MASK_DENSITY = Knob(
    "density",
    "float",
    0.5,
    "Probability that an entry of an input's difference is kept.",
    low=0.05,
    high=1.0,
    per_input=True,
    log=True,
    lowest=1e-6,
    highest=1.0,
)
_CONSENSUS = Knob(
    "consensus",
    "choice",
    "sum",
    "How the sign of an entry is elected: by the weighted sum, or one vote per input.",
    choices=("sum", "count"),
)
_ZERO_RULE = Knob(
    "zero_rule",
    "choice",
    "plus",
    "Sign where the election is a draw: plus, or the majority of the tensor's signs.",
    choices=("plus", "majority"),
)
_RESCALE = Knob(
    "rescale",
    "choice",
    "inverse",
    "Kept entries are divided by the density, scaled to keep the L1 norm, or left.",
    choices=("inverse", "l1", "none"),
)
_UNIT = Knob(
    "unit",
    "choice",
    "element",
    "What is kept or dropped as one: each entry, or each input feature (column).",
    choices=("element", "column"),
)
_SEED = Knob(
    "seed",
    "int",
    0,
    "Seed of the random masks.",
    low=0,
    high=2**31 - 1,
    searchable=False,
    lowest=0,
)
_T = Knob(
    "t",
    "float",
    0.5,
    "Where on the arc from the first input (0) to the second (1).",
    low=0.0,
    high=1.0,
    lowest=0.0,
    highest=1.0,
)
_AXIS = Knob(
    "axis",
    "choice",
    "flat",
    "What turns as one vector: the whole tensor, each row (in) or each column (out).",
    choices=("flat", "in", "out"),
)

_DARE = (_MASK_DENSITY, _WEIGHT, _LAMBDA, _RESCALE, _UNIT, _SEED)

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
    Operator(
        "ties",
        "Trim small differences, elect a sign per entry, average those that agree.",
        "Yadav et al. 2023 (2306.01708)",
        (
            _TRIM_DENSITY,
            _WEIGHT,
            replace(_LAMBDA, low=0.3),
            _CONSENSUS,
            replace(_NORMALIZE_AGREEING, default=True),
            _ZERO_RULE,
        ),
        needs_base=True,
        takes_base=True,
        policies=_LINEAR_VECTORS,
    ),
    Operator(
        "dare_linear",
        "Drop differences at random, rescale the rest, add them to the base.",
        "Yu et al. 2023 (2311.03099)",
        (*_DARE, _NORMALIZE),
        needs_base=True,
        takes_base=True,
        policies=_LINEAR_VECTORS,
        random=True,
    ),
    Operator(
        "dare_ties",
        "Drop differences at random, rescale the rest, add up those that agree.",
        "Yu et al. 2023 (2311.03099), Yadav et al. 2023 (2306.01708)",
        (*_DARE, _NORMALIZE_AGREEING),
        needs_base=True,
        takes_base=True,
        policies=_LINEAR_VECTORS,
        random=True,
    ),
    Operator(
        "slerp",
        "Spherical interpolation between the weights of two inputs.",
        "Shoemake 1985; mergekit (2403.13257)",
        (_T,),
        n_inputs=2,
        policies=_LINEAR_VECTORS,
    ),
    Operator(
        "nuslerp",
        "Spherical interpolation of two inputs, or of their differences from a base.",
        "Shoemake 1985; mergekit (2403.13257)",
        (
            _T,
            replace(
                _SHARE,
                help="Instead of t: the second input's share of both weights is t.",
                searchable=False,  # only the ratio matters, and that is t
            ),
            _AXIS,
        ),
        takes_base=True,
        n_inputs=2,
        policies=_LINEAR_VECTORS,
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
