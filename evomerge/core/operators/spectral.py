"""Operators that work on singular vectors, as data."""

from collections.abc import Mapping
from dataclasses import replace

from evomerge.core.operators.catalogue import (
    CONSENSUS,
    LAMBDA,
    LINEAR_VECTORS,
    MASK_DENSITY,
    NORMALIZE_AGREEING,
    RESCALE,
    SEED,
    SHARE,
    WEIGHT,
    Knob,
    Operator,
    Policy,
    only_with,
)
from evomerge.core.operators.derived import CORE, INTERFERENCE, SHARED_BASIS, SVD

ONLY_MATRICES: Mapping[str, Policy] = {
    **LINEAR_VECTORS,
    "embed": "linear",
    "head": "linear",
}
"""Rows of an embedding are tokens: their singular vectors mix unrelated ones."""

_RANK = Knob(
    "rank_frac",
    "float",
    None,
    "Part of each input's singular directions kept, largest first; 1/N if not given.",
    low=0.05,
    high=1.0,
    log=True,
    lowest=0.0,
    highest=1.0,
)
_COMMON = Knob(
    "common_frac",
    "float",
    0.8,
    "Part of the directions taken from the sum; the inputs' own share the rest.",
    low=0.3,
    high=1.0,
    lowest=0.0,
    highest=1.0,
)
MEAN_OVER = Knob(
    "mean_over",
    "choice",
    "all",
    "The level of all directions is the mean over all there could be, or over those "
    "with a value (for differences of low rank).",
    choices=("all", "nonzero"),
)
_ISO_LAMBDA = replace(LAMBDA, low=0.3, high=3.0)
JOIN = Knob(
    "join",
    "choice",
    "in",
    "Whose basis is shared: the outputs' (joined along input features), or the "
    "inputs'.",
    choices=("in", "out"),
)
_INNER = Knob(
    "inner",
    "choice",
    "ties",
    "What merges the differences in the shared basis.",
    choices=("sum", "ties", "dare_ties", "tsv", "iso"),
)
_OF_INNER = (
    WEIGHT,
    LAMBDA,
    only_with(
        replace(
            MASK_DENSITY,
            default=1.0,
            log=False,
            help="Of ties the part kept, largest first; of dare_ties the chance to be "
            "kept.",
        ),
        inner=("ties", "dare_ties"),
    ),
    only_with(CONSENSUS, inner=("ties",)),
    only_with(
        replace(
            NORMALIZE_AGREEING,
            default=True,
            help="Divide by the sum of the weights (of ties, dare_ties: of those that "
            "agree).",
        ),
        inner=("sum", "ties", "dare_ties"),
    ),
    only_with(
        replace(RESCALE, help="Of dare_ties. " + RESCALE.help), inner=("dare_ties",)
    ),
    only_with(replace(_RANK, help="Of tsv. " + _RANK.help), inner=("tsv",)),
    only_with(SEED, inner=("dare_ties",)),
)
_WUDI = (
    replace(
        SHARE,
        help="Share of each input in the interference; 1/N each if not given.",
        lowest=0.0,
    ),
    replace(LAMBDA, low=0.3, high=1.5),
    Knob(
        "solver",
        "choice",
        "closed",
        "Solve for the least interference, or walk towards it by Adam.",
        choices=("closed", "adam"),
    ),
    Knob(
        "ridge",
        "float",
        1e-3,
        "Of closed: pull to the anchor, as a part of the mean curvature.",
        low=1e-6,
        high=1e-1,
        log=True,
        lowest=0.0,
        only_with=(("solver", ("closed",)),),
    ),
    Knob(
        "anchor",
        "choice",
        "sum",
        "Where the search starts, or is pulled to: the differences' sum or mean.",
        choices=("sum", "mean"),
    ),
    Knob(
        "steps",
        "int",
        300,
        "Of adam: how many steps.",
        low=50,
        high=1000,
        log=True,
        lowest=0,
        only_with=(("solver", ("adam",)),),
    ),
    Knob(
        "lr",
        "float",
        0.01,
        "Of adam: size of a step, in units of the differences' root mean square.",
        low=1e-3,
        high=1e-1,
        log=True,
        lowest=0.0,
        only_with=(("solver", ("adam",)),),
    ),
)

SPECTRAL = (
    Operator(
        "tsv",
        "Leading singular directions of every difference, made orthogonal, added up.",
        "Gargiulo et al. 2024 (2412.00081)",
        (WEIGHT, replace(LAMBDA, low=0.5), _RANK),
        base="needed",
        policies=ONLY_MATRICES,
        spectral_with=(),
        share="mean",
        keeps=(SVD,),
    ),
    Operator(
        "iso_c",
        "Summed differences with all singular values set to their mean.",
        "Marczak et al. 2025 (2502.04959)",
        (WEIGHT, _ISO_LAMBDA, MEAN_OVER),
        base="needed",
        policies=ONLY_MATRICES,
        spectral_with=(),
        share="mean",
    ),
    Operator(
        "iso_cts",
        "Leading directions of the summed differences and each input's own, flattened.",
        "Marczak et al. 2025 (2502.04959)",
        (WEIGHT, _ISO_LAMBDA, _COMMON, MEAN_OVER),
        base="needed",
        policies=ONLY_MATRICES,
        spectral_with=(),
        share="mean",
    ),
    Operator(
        "knots",
        "Another method's merge of the differences in one basis that they share.",
        "Stoica et al. 2024 (2410.19735)",
        (_INNER, JOIN, *_OF_INNER),
        base="needed",
        policies=ONLY_MATRICES,
        spectral_with=(),
        random=True,
        keeps=(SHARED_BASIS,),
    ),
    Operator(
        "core_space",
        "Another method's merge of the differences in the core that their bases span.",
        "Panariello et al. 2025 (2509.17786)",
        (_INNER, *_OF_INNER),
        base="needed",
        policies=ONLY_MATRICES,
        spectral_with=(),
        random=True,
        keeps=(CORE,),
    ),
    Operator(
        "wudi",
        "The difference that disturbs the inputs least, their rows taken as data.",
        "Cheng et al. 2025 (2503.08099)",
        _WUDI,
        base="needed",
        policies=ONLY_MATRICES,
        spectral_with=(),
        keeps=(INTERFERENCE,),
    ),
)
