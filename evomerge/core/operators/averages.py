"""Weighted averages and sums, as data."""

from dataclasses import replace

from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.operators.knobs import (
    LAMBDA,
    LINEAR_VECTORS,
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
        "lora_linear",
        "Weighted average of adapters' factors, A and B each on their own.",
        "Rame et al. 2023 (2306.04488), Huang et al. 2023 (2307.13269)",
        (SHARE,),
        factors_with=(),
    ),
    Operator(
        "task_arithmetic",
        "Base plus a weighted sum of the inputs' differences from it.",
        "Ilharco et al. 2022 (2212.04089)",
        (WEIGHT, LAMBDA, NORMALIZE),
        needs_base=True,
        takes_base=True,
    ),
    Operator(
        "model_stock",
        "Pull the mean of the inputs towards the base, by the angle between them.",
        "Jang et al. 2024 (2403.19522)",
        (
            Knob(
                "filter_wise",
                "choice",
                False,
                "Measure the angle for each row of a matrix on its own.",
                choices=(False, True),
            ),
            Knob(
                "clamp",
                "choice",
                True,
                "Keep the result between the base and the mean.",
                choices=(True, False),
            ),
            Knob(
                "t_scale",
                "float",
                1.0,
                "Factor on the share of the mean.",
                low=0.5,
                high=1.5,
            ),
        ),
        needs_base=True,
        takes_base=True,
        least_inputs=2,
        policies=LINEAR_VECTORS,
        share="mean",
    ),
    Operator(
        "bcwi",
        "Interpolate from new models' mean back to the old one, which is the base.",
        "Schumann et al. 2023 (2301.10546)",
        (
            Knob(
                "alpha",
                "float",
                0.5,
                "Share of the old model.",
                low=0.0,
                high=1.0,
                lowest=0.0,
                highest=1.0,
            ),
        ),
        needs_base=True,
        takes_base=True,
        share="mean",
    ),
)
