"""Averages, straight and along arcs, as data."""

from dataclasses import replace

from evomerge.core.operators.catalogue import (
    LAMBDA,
    LINEAR_VECTORS,
    NORMALIZE,
    SHARE,
    WEIGHT,
    Knob,
    Operator,
)
from evomerge.core.operators.derived import DOT_PRODUCTS, FISHER, MEAN_COSINE

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
        base="needed",
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
        base="needed",
        least_inputs=2,
        policies=LINEAR_VECTORS,
        share="mean",
        keeps=(MEAN_COSINE,),
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
        base="needed",
        share="mean",
    ),
)

MEASURED = (
    Operator(
        "fisher",
        "Average every entry by how much each input's predictions depend on it.",
        "Matena and Raffel 2021 (2111.09832)",
        (
            SHARE,
            Knob(
                "norm",
                "choice",
                "model",
                "Divide each input's statistics by their norm over the whole model, or "
                "take them as they are.",
                choices=("model", "none"),
            ),
            Knob(
                "floor",
                "float",
                1e-6,
                "Statistics below this count as this, once they are divided.",
                low=1e-10,
                high=1e-3,
                log=True,
                lowest=0.0,
            ),
            Knob(
                "power",
                "float",
                1.0,
                "Exponent on the statistics: below 1 evens them out.",
                low=0.25,
                high=1.0,
                lowest=0.0,
            ),
        ),
        statistics=(FISHER,),
    ),
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
_LOG_MAP = Knob(
    "log_map",
    "choice",
    False,
    "Go one step from there towards the Karcher mean.",
    choices=(False, True),
)
_MAX_ITER = Knob(
    "max_iter",
    "int",
    50,
    "Most steps towards the mean direction; if more were needed, a warning says so.",
    low=1,
    high=200,
    searchable=False,  # how well the mean is found, not which mean
    lowest=1,
)
_TOL = Knob(
    "tol",
    "float",
    1e-9,
    "Length of a step (in radians) that is small enough to stop after.",
    low=1e-12,
    high=1e-3,
    log=True,
    searchable=False,
    lowest=1e-15,
)

SPHERICAL = (
    Operator(
        "slerp",
        "Spherical interpolation between the weights of two inputs.",
        "Shoemake 1985; mergekit (2403.13257)",
        (_T,),
        n_inputs=2,
        policies=LINEAR_VECTORS,
        keeps=(DOT_PRODUCTS,),
        share="arc",
    ),
    Operator(
        "nuslerp",
        "Spherical interpolation of two inputs, or of their differences from a base.",
        "Shoemake 1985; mergekit (2403.13257)",
        (
            _T,
            replace(
                SHARE,
                help="Instead of t: the second input's share of both weights is t.",
                searchable=False,  # only the ratio matters, and that is t
            ),
            _AXIS,
        ),
        base="optional",
        n_inputs=2,
        either=("t", "weight"),
        policies=LINEAR_VECTORS,
        keeps=(DOT_PRODUCTS,),
        share="arc",
    ),
    Operator(
        "multislerp",
        "Mean direction of any number of inputs, or of their differences from a base.",
        "mergekit (2403.13257)",
        (SHARE, replace(NORMALIZE, default=True), _LOG_MAP),
        base="optional",
        policies=LINEAR_VECTORS,
        keeps=(DOT_PRODUCTS,),
    ),
    Operator(
        "karcher",
        "Direction with the least mean squared angle to the inputs, or differences.",
        "Karcher 1977; mergekit (2403.13257)",
        (SHARE, _MAX_ITER, _TOL),
        base="optional",
        policies=LINEAR_VECTORS,
        keeps=(DOT_PRODUCTS,),
    ),
)
