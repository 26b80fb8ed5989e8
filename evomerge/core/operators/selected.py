"""Operators that look at the inputs entry by entry, as data."""

from dataclasses import replace

from evomerge.core.operators.catalogue import (
    LAMBDA,
    LINEAR_VECTORS,
    ROUNDING,
    TRIM_DENSITY,
    WEIGHT,
    Knob,
    Operator,
    only_with,
)
from evomerge.core.operators.derived import (
    IMPORTANCE,
    MAGNITUDE_ENDS,
    MAGNITUDES,
    ONE_MAGNITUDE,
    ONE_SCORE,
    ONE_VARIANCE,
    SCORES,
    SHARED_TO_UNIQUE,
    VARIANCES,
)

SELECT_TOPK = Knob(
    "select_topk",
    "float",
    0.1,
    "Part of the entries selected, those in which the inputs vary most.",
    low=0.01,
    high=1.0,
    log=True,
    lowest=0.0,
    highest=1.0,
)
MASK_SCOPE = Knob(
    "mask_scope",
    "choice",
    "weights_only",
    "Whether the selection only decides the weights, or drops all other entries too.",
    choices=("weights_only", "all"),
)
_FLOOR = Knob(
    "floor",
    "float",
    0.0,
    "Energies (mean squares) that sum to less count as equal; mergekit has 1e-6.",
    low=0.0,
    high=1e-3,
    searchable=False,  # a guard against noise
    lowest=0.0,
)
_DRAW = Knob(
    "draw",
    "choice",
    "first",
    "Which of equally large differences is taken.",
    choices=("first", "last"),
    searchable=False,  # matters where two inputs are equal in size
)
_ACTIVE = Knob(
    "epsilon",
    "float",
    1e-5,
    "A difference up to this counts as none.",
    low=1e-8,
    high=1e-3,
    log=True,
    lowest=0.0,
)
_R = Knob(
    "r",
    "float",
    0.1,
    "How much differences of one input alone grow with what it shares.",
    low=0.0,
    high=0.5,
    lowest=0.0,
)
_ALPHA = Knob(
    "alpha",
    "float",
    0.2,
    "Up to which ratio of shared to lone differences they grow.",
    low=0.0,
    high=1.0,
    lowest=0.0,
)
BEST = Knob(
    "r",
    "float",
    0.05,
    "Part of each input's entries that win a weight.",
    low=0.01,
    high=0.3,
    log=True,
    lowest=0.0,
    highest=1.0,
)
_INTER = Knob(
    "inter",
    "choice",
    "pairwise",
    "How inputs compete: each with each by relative size, or with the plain sum.",
    choices=("pairwise", "product"),
)
_CLIP = Knob(
    "clip",
    "choice",
    1e-4,
    "Part of each input's smallest and largest differences that is clipped.",
    choices=(0.0, 1e-4, 1e-2),
)
LAMBDA_T = Knob(
    "lambda_t",
    "float",
    0.4,
    "A task uses an entry if its difference is above this part of all the rest's.",
    low=0.1,
    high=1.0,
    lowest=0.0,
)
LEAST_TASKS = Knob(
    "k",
    "int",
    2,
    "How many tasks must use an entry for it to stay.",
    low=0,
    high=4,
    lowest=0,
)
_SOURCE = Knob(
    "source",
    "choice",
    "sum",
    "The merged difference that is masked: the plain sum, or that of TIES.",
    choices=("sum", "ties"),
)

SELECTED = (
    Operator(
        "sce",
        "Average differences that agree, by their energy where the inputs vary most.",
        "Wan et al. 2024 (2408.07990)",
        (SELECT_TOPK, MASK_SCOPE, LAMBDA, _FLOOR, ROUNDING),
        base="needed",
        policies=LINEAR_VECTORS,
        share="mean",
        keeps=(VARIANCES, ONE_VARIANCE),
    ),
    Operator(
        "magmax",
        "Take the largest difference of every entry.",
        "Marczak et al. 2024 (2407.06322)",
        (replace(LAMBDA, default=0.5, high=1.5), _DRAW),
        base="needed",
        policies=LINEAR_VECTORS,
        share="mean",
    ),
    Operator(
        "ram",
        "Keep differences that one input has alone, average those that are shared.",
        "2601.13572; mergekit (2403.13257)",
        (_ACTIVE, LAMBDA),
        base="needed",
        policies=LINEAR_VECTORS,
        share="mean",
    ),
    Operator(
        "ramplus_tl",
        "Amplify differences that one input has alone, average those that are shared.",
        "2601.13572; mergekit (2403.13257)",
        (_ACTIVE, _R, _ALPHA, LAMBDA),
        base="needed",
        policies=LINEAR_VECTORS,
        share="mean",
        keeps=(SHARED_TO_UNIQUE,),
    ),
    Operator(
        "pcb",
        "Average every entry by weights won within each input and between inputs.",
        "Du et al. 2024 (2410.02396)",
        (
            BEST,
            replace(
                WEIGHT,
                default=1.2,
                low=0.5,
                help="Factor on each input's difference from the base.",
            ),
            _INTER,
            _CLIP,
        ),
        base="needed",
        policies=LINEAR_VECTORS,
        share="mean",
        keeps=(MAGNITUDE_ENDS, SCORES, ONE_SCORE),
    ),
    Operator(
        "consensus",
        "Keep the entries of the summed differences that enough inputs use.",
        "Wang et al. 2024 (2405.07813)",
        (
            LAMBDA_T,
            LEAST_TASKS,
            replace(LAMBDA, default=0.4, high=1.5),
            _SOURCE,
            only_with(
                replace(
                    TRIM_DENSITY,
                    help="With the source ties: part of each input's differences kept.",
                ),
                source=("ties",),
            ),
        ),
        base="needed",
        policies=LINEAR_VECTORS,
        keeps=(MAGNITUDES, ONE_MAGNITUDE),
    ),
    Operator(
        "emr",
        "Elect a sign per entry, take the largest difference that has it.",
        "Huang et al. 2024 (2405.17461)",
        (replace(LAMBDA, high=1.5),),
        base="needed",
        policies=LINEAR_VECTORS,
        share="mean",
    ),
)


PAIRS = (
    Operator(
        "arcee_fusion",
        "Take over the differences whose importance stands out, leave the rest.",
        "mergekit (2403.13257)",
        (
            Knob(
                "kappa",
                "float",
                1.5,
                "How many quartile ranges above the median an importance stands out.",
                low=0.0,
                high=4.0,
                lowest=0.0,
            ),
        ),
        base="needed",
        n_inputs=1,
        policies=LINEAR_VECTORS,
        share="half",
        keeps=(IMPORTANCE,),
    ),
    Operator(
        "nearswap",
        "Move every entry of the base towards the input, by a small step at most.",
        "mergekit (2403.13257)",
        (
            Knob(
                "t",
                "float",
                1e-4,
                "Longest step.",
                low=1e-6,
                high=0.1,
                log=True,
                lowest=0.0,
            ),
        ),
        base="needed",
        n_inputs=1,
        policies=LINEAR_VECTORS,
        share="half",
    ),
)
