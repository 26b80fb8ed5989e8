"""Weighted averages and sums, as data."""

from dataclasses import replace

from evomerge.core.catalogue import Operator
from evomerge.core.operators.knobs import (
    LAMBDA,
    NORMALIZE,
    SHARE,
    WEIGHT,
)

AVERAGES = (
    Operator(
        "linear",
        "Weighted average of the inputs' weights.",
        "Goodfellow et al. 2014 (1412.6544), Wortsman et al. 2022 (2203.05482)",
        (SHARE, replace(NORMALIZE, default=True)),
    ),
    Operator(
        "task_arithmetic",
        "Base plus a weighted sum of the inputs' differences from it.",
        "Ilharco et al. 2022 (2212.04089)",
        (WEIGHT, LAMBDA, NORMALIZE),
        needs_base=True,
        takes_base=True,
    ),
)
