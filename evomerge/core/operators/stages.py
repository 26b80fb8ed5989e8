"""One operator whose stages are choices: most methods are a row of such choices.

``basis -> sparsify -> rescale -> weight -> consensus -> reduce -> post``. With every
choice at its default it is task arithmetic; the named methods are other rows, and a
search may leave any stage open.
"""

from dataclasses import replace

from evomerge.core.operators.catalogue import (
    LAMBDA,
    LINEAR_VECTORS,
    MASK_DENSITY,
    ROUNDING,
    SEED,
    UNIT,
    WEIGHT,
    ZERO_RULE,
    Knob,
    Operator,
    only_with,
)
from evomerge.core.operators.derived import (
    CORE,
    MAGNITUDES,
    ONE_MAGNITUDE,
    ONE_VARIANCE,
    RANKS,
    ROW_ENDS,
    ROW_RANKS,
    SHARED_BASIS,
    VARIANCES,
)
from evomerge.core.operators.selected import (
    LAMBDA_T,
    LEAST_TASKS,
    MASK_SCOPE,
    SELECT_TOPK,
)
from evomerge.core.operators.sparsified import AXIS, EPS_FRAC, GAMMA, RANK_BY
from evomerge.core.operators.spectral import JOIN, MEAN_OVER

_BY_DENSITY = ("magnitude", "bernoulli", "rank_bernoulli", "two_sided")
_SPARSE = (*_BY_DENSITY, "variance", "tall")
_ELECTED = ("sum_sign", "count_sign", "mean_sign")

BASIS = Knob(
    "basis",
    "choice",
    "none",
    "In what the differences of a matrix are merged: as they are, in one side's shared "
    "singular vectors (KnOTS), or in both sides' (core space).",
    choices=("none", "svd", "core"),
)
SPARSIFY = Knob(
    "sparsify",
    "choice",
    "none",
    "Which entries stay: all, the largest, random ones, random ones by rank (DELLA), "
    "the middle (Breadcrumbs), where inputs vary most (SCE), or what enough tasks use "
    "(TALL).",
    choices=("none", *_SPARSE),
)
RESCALE_STAGE = Knob(
    "rescale",
    "choice",
    "none",
    "Entries that stay are left, divided by the density (of rank_bernoulli by their "
    "own probability), or scaled to keep the L1 norm.",
    choices=("none", "inverse", "l1"),
)
CONSENSUS_STAGE = Knob(
    "consensus",
    "choice",
    "none",
    "Whether only entries with an elected sign are merged, and who elects: the "
    "weighted sum, one vote per input, or the mean without weights.",
    choices=("none", *_ELECTED),
)
REDUCE = Knob(
    "reduce",
    "choice",
    "sum",
    "How what is left of the inputs becomes one: sum, mean (of those that agree), the "
    "largest, or the mean by the energy of what each input keeps.",
    choices=("sum", "mean", "max", "energy"),
)
POST = Knob(
    "post",
    "choice",
    "none",
    "What is done to a merged matrix: nothing, or all singular values set to their "
    "mean (ISO-C).",
    choices=("none", "flat"),
)

_OF_ENTRIES = (
    MAGNITUDES,
    ONE_MAGNITUDE,
    ROW_ENDS,
    ROW_RANKS,
    RANKS,
    VARIANCES,
    ONE_VARIANCE,
)

STAGED = (
    Operator(
        "staged",
        "Differences merged in stages, each of them a choice.",
        "Factorisation of the named methods into stages",
        (
            BASIS,
            SPARSIFY,
            CONSENSUS_STAGE,
            REDUCE,
            POST,
            only_with(JOIN, basis=("svd",)),
            only_with(
                replace(
                    MASK_DENSITY,
                    help="Part of each input's differences kept, or the probability to "
                    "keep one.",
                ),
                sparsify=_BY_DENSITY,
            ),
            only_with(GAMMA, sparsify=("two_sided",)),
            only_with(AXIS, sparsify=("two_sided",)),
            only_with(EPS_FRAC, sparsify=("rank_bernoulli",)),
            only_with(RANK_BY, sparsify=("rank_bernoulli",)),
            only_with(UNIT, sparsify=("bernoulli",)),
            only_with(SELECT_TOPK, sparsify=("variance",)),
            only_with(LAMBDA_T, sparsify=("tall",)),
            only_with(LEAST_TASKS, sparsify=("tall",)),
            only_with(RESCALE_STAGE, sparsify=_BY_DENSITY),
            only_with(ROUNDING, sparsify=("magnitude", "two_sided", "variance")),
            only_with(SEED, sparsify=("bernoulli", "rank_bernoulli")),
            only_with(WEIGHT, reduce=("sum", "mean", "max")),
            only_with(
                replace(
                    ZERO_RULE,
                    help="Sign where the election is a draw: plus, minus, or the "
                    "majority of the tensor's signs.",
                    choices=("plus", "minus", "majority"),
                ),
                consensus=_ELECTED,
            ),
            only_with(
                replace(
                    MASK_SCOPE,
                    default="all",
                    help="Whether dropped entries are dropped, or only left out of the "
                    "energies.",
                ),
                reduce=("energy",),
                sparsify=_SPARSE,
            ),
            only_with(MEAN_OVER, post=("flat",)),
            LAMBDA,
        ),
        base="needed",
        policies=LINEAR_VECTORS,
        spectral_with=(("basis", ("svd", "core")), ("post", ("flat",))),
        share="stages",
        random=True,
        keeps=(*_OF_ENTRIES, SHARED_BASIS, CORE),
    ),
)
