"""Operators that work on singular vectors, as data."""

from collections.abc import Mapping
from dataclasses import replace

from evomerge.core.catalogue import Knob, Operator, Policy
from evomerge.core.operators.knobs import LAMBDA, LINEAR_VECTORS, WEIGHT

_ONLY_MATRICES: Mapping[str, Policy] = {
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
_MEAN_OVER = Knob(
    "mean_over",
    "choice",
    "all",
    "The level of all directions is the mean over all there could be, or over those "
    "with a value (for differences of low rank).",
    choices=("all", "nonzero"),
)
_ISO_LAMBDA = replace(LAMBDA, low=0.3, high=3.0)

SPECTRAL = (
    Operator(
        "tsv",
        "Leading singular directions of every difference, made orthogonal, added up.",
        "Gargiulo et al. 2024 (2412.00081)",
        (WEIGHT, replace(LAMBDA, low=0.5), _RANK),
        needs_base=True,
        takes_base=True,
        policies=_ONLY_MATRICES,
        share="mean",
    ),
    Operator(
        "iso_c",
        "Summed differences with all singular values set to their mean.",
        "Marczak et al. 2025 (2502.04959)",
        (WEIGHT, _ISO_LAMBDA, _MEAN_OVER),
        needs_base=True,
        takes_base=True,
        policies=_ONLY_MATRICES,
        share="mean",
    ),
    Operator(
        "iso_cts",
        "Leading directions of the summed differences and each input's own, flattened.",
        "Marczak et al. 2025 (2502.04959)",
        (WEIGHT, _ISO_LAMBDA, _COMMON, _MEAN_OVER),
        needs_base=True,
        takes_base=True,
        policies=_ONLY_MATRICES,
        share="mean",
    ),
)
