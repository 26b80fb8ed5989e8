"""Operators that drop differences, by their size or at random, as data."""

from dataclasses import replace

from evomerge.core.operators.catalogue import (
    CONSENSUS,
    KEEP_NORM,
    LAMBDA,
    LINEAR_VECTORS,
    MASK_DENSITY,
    NORMALIZE,
    NORMALIZE_AGREEING,
    RESCALE,
    ROUNDING,
    SEED,
    TRIM_DENSITY,
    UNIT,
    WEIGHT,
    ZERO_RULE,
    Knob,
    Operator,
)
from evomerge.core.operators.derived import (
    MAGNITUDES,
    ONE_MAGNITUDE,
    RANKS,
    ROW_ENDS,
    ROW_RANKS,
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
        base="needed",
        policies=LINEAR_VECTORS,
        whole_model_with=(("scope", ("model",)),),
        keeps=(MAGNITUDES, ONE_MAGNITUDE),
    ),
    Operator(
        "breadcrumbs",
        "Drop the smallest and the largest differences, add the rest to the base.",
        "Davari and Belilovsky 2023 (2312.06795)",
        (*_CRUMBS, NORMALIZE),
        base="needed",
        policies=LINEAR_VECTORS,
        keeps=(MAGNITUDES, ONE_MAGNITUDE, ROW_RANKS),
    ),
    Operator(
        "breadcrumbs_ties",
        "Drop the smallest and the largest differences, add up those that agree.",
        "Davari and Belilovsky 2023 (2312.06795), Yadav et al. 2023 (2306.01708)",
        (*_CRUMBS, NORMALIZE_AGREEING),
        base="needed",
        policies=LINEAR_VECTORS,
        keeps=(MAGNITUDES, ONE_MAGNITUDE, ROW_RANKS),
    ),
)


_DARE = (MASK_DENSITY, WEIGHT, LAMBDA, RESCALE, UNIT, SEED)
EPS_FRAC = Knob(
    "eps_frac",
    "float",
    0.5,
    "How far keep probabilities spread around the density, of what there is room for.",
    low=0.0,
    high=0.99,
    per_input=True,
    lowest=0.0,
    highest=0.99,
)
_EPSILON = Knob(
    "epsilon",
    "float",
    0.15,
    "Instead of eps_frac: how far keep probabilities spread around the density.",
    low=0.0,
    high=0.49,
    per_input=True,
    searchable=False,  # must fit the density; eps_frac always does
    lowest=0.0,
    highest=0.5,
)
RANK_BY = Knob(
    "rank_by",
    "choice",
    "row_rank",
    "What a keep probability goes by: rank in the row, rank in the tensor, or size "
    "between the row's smallest and largest.",
    choices=("row_rank", "tensor_rank", "row_minmax"),
)
_DELLA = (
    replace(MASK_DENSITY, low=0.1, high=0.9, log=False),
    EPS_FRAC,
    _EPSILON,
    WEIGHT,
    replace(LAMBDA, low=0.5, high=2.0),
    replace(
        RESCALE,
        help="Kept entries are divided by their probability, scaled to keep the L1 "
        "norm, or left.",
    ),
    RANK_BY,
    SEED,
)
_MIXOUT_RESCALE = "Kept entries are divided by the part that is kept, or left."
_P = Knob(
    "p",
    "float",
    0.7,
    "Probability that an entry goes back to the base.",
    low=0.0,
    high=0.95,
    lowest=0.0,
    highest=0.999,
)

MASKED = (
    Operator(
        "dare_linear",
        "Drop differences at random, rescale the rest, add them to the base.",
        "Yu et al. 2023 (2311.03099)",
        (*_DARE, NORMALIZE),
        base="needed",
        policies=LINEAR_VECTORS,
        random=True,
    ),
    Operator(
        "dare_ties",
        "Drop differences at random, rescale the rest, add up those that agree.",
        "Yu et al. 2023 (2311.03099), Yadav et al. 2023 (2306.01708)",
        (*_DARE, NORMALIZE_AGREEING),
        base="needed",
        policies=LINEAR_VECTORS,
        random=True,
    ),
    Operator(
        "della",
        "Drop small differences more often than large ones, average those that agree.",
        "Deep et al. 2024 (2406.11617)",
        (*_DELLA, replace(NORMALIZE_AGREEING, default=True)),
        base="needed",
        policies=LINEAR_VECTORS,
        either=("eps_frac", "epsilon"),
        random=True,
        ranked=True,
        keeps=(ROW_RANKS, RANKS, ROW_ENDS),
    ),
    Operator(
        "della_linear",
        "Drop small differences more often than large ones, add the rest to the base.",
        "Deep et al. 2024 (2406.11617)",
        (*_DELLA, NORMALIZE),
        base="needed",
        policies=LINEAR_VECTORS,
        either=("eps_frac", "epsilon"),
        random=True,
        ranked=True,
        keeps=(ROW_RANKS, RANKS, ROW_ENDS),
    ),
    Operator(
        "mixout",
        "Put the base back for a part of one input, chosen at random.",
        "Lee et al. 2019 (1909.11299)",
        (
            _P,
            replace(RESCALE, choices=("inverse", "none"), help=_MIXOUT_RESCALE),
            replace(UNIT, default="column"),
            SEED,
        ),
        base="needed",
        n_inputs=1,
        policies=LINEAR_VECTORS,
        random=True,
    ),
)
