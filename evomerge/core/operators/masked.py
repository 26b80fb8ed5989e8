"""Operators that drop differences at random, as data."""

from evomerge.core.catalogue import Operator
from evomerge.core.operators.knobs import (
    LAMBDA,
    LINEAR_VECTORS,
    MASK_DENSITY,
    NORMALIZE,
    NORMALIZE_AGREEING,
    RESCALE,
    SEED,
    UNIT,
    WEIGHT,
)

_DARE = (MASK_DENSITY, WEIGHT, LAMBDA, RESCALE, UNIT, SEED)

MASKED = (
    Operator(
        "dare_linear",
        "Drop differences at random, rescale the rest, add them to the base.",
        "Yu et al. 2023 (2311.03099)",
        (*_DARE, NORMALIZE),
        needs_base=True,
        takes_base=True,
        policies=LINEAR_VECTORS,
        random=True,
    ),
    Operator(
        "dare_ties",
        "Drop differences at random, rescale the rest, add up those that agree.",
        "Yu et al. 2023 (2311.03099), Yadav et al. 2023 (2306.01708)",
        (*_DARE, NORMALIZE_AGREEING),
        needs_base=True,
        takes_base=True,
        policies=LINEAR_VECTORS,
        random=True,
    ),
)
