"""Operators that choose differences by their size, as data."""

from dataclasses import replace

from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.operators.knobs import (
    CONSENSUS,
    KEEP_NORM,
    LAMBDA,
    LINEAR_VECTORS,
    NORMALIZE,
    NORMALIZE_AGREEING,
    ROUNDING,
    TRIM_DENSITY,
    WEIGHT,
    ZERO_RULE,
)

GAMMA = Knob(
    "gamma",
    "float",
    0.01,
    "Part of each input's differences that is dropped from the top.",
    low=1e-4,
    high=0.1,
    per_input=True,
    log=True,
    lowest=0.0,
    highest=1.0,
)
SCOPE = Knob(
    "scope",
    "choice",
    "tensor",
    "Within what differences are ordered: each tensor, or the layers of the model.",
    choices=("tensor", "model"),
)
AXIS = Knob(
    "axis",
    "choice",
    "tensor",
    "Within what differences are ordered: the whole tensor, or each row.",
    choices=("tensor", "row"),
)
_CRUMBS = (
    replace(
        TRIM_DENSITY,
        default=0.15,
        help="Part of each input's differences kept, below the largest.",
    ),
    GAMMA,
    WEIGHT,
    replace(LAMBDA, default=0.3, low=0.05, high=1.5),
    AXIS,
    KEEP_NORM,
    ROUNDING,
)

TRIMMED = (
    Operator(
        "ties",
        "Trim small differences, elect a sign per entry, average those that agree.",
        "Yadav et al. 2023 (2306.01708)",
        (
            TRIM_DENSITY,
            SCOPE,
            WEIGHT,
            replace(LAMBDA, low=0.3),
            CONSENSUS,
            replace(NORMALIZE_AGREEING, default=True),
            ZERO_RULE,
            KEEP_NORM,
            ROUNDING,
        ),
        needs_base=True,
        takes_base=True,
        policies=LINEAR_VECTORS,
    ),
    Operator(
        "breadcrumbs",
        "Drop the smallest and the largest differences, add the rest to the base.",
        "Davari and Belilovsky 2023 (2312.06795)",
        (*_CRUMBS, NORMALIZE),
        needs_base=True,
        takes_base=True,
        policies=LINEAR_VECTORS,
    ),
    Operator(
        "breadcrumbs_ties",
        "Drop the smallest and the largest differences, add up those that agree.",
        "Davari and Belilovsky 2023 (2312.06795), Yadav et al. 2023 (2306.01708)",
        (*_CRUMBS, NORMALIZE_AGREEING),
        needs_base=True,
        takes_base=True,
        policies=LINEAR_VECTORS,
    ),
)
