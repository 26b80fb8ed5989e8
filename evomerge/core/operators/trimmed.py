"""Operators that choose differences by their size, as data."""

from dataclasses import replace

from evomerge.core.catalogue import Operator
from evomerge.core.operators.knobs import (
    CONSENSUS,
    KEEP_NORM,
    LAMBDA,
    LINEAR_VECTORS,
    NORMALIZE_AGREEING,
    ROUNDING,
    TRIM_DENSITY,
    WEIGHT,
    ZERO_RULE,
)

TRIMMED = (
    Operator(
        "ties",
        "Trim small differences, elect a sign per entry, average those that agree.",
        "Yadav et al. 2023 (2306.01708)",
        (
            TRIM_DENSITY,
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
)
