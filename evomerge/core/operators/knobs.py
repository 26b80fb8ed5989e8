"""Knobs and role policies that several families of operators share."""

from collections.abc import Mapping
from dataclasses import replace

from evomerge.core.digest import Scalar
from evomerge.core.operators.catalogue import Knob, Policy

LINEAR_VECTORS: Mapping[str, Policy] = {
    "norm": "linear",
    "bias": "linear",
    "router": "linear",
}

SHARE = Knob(
    "weight",
    "float",
    None,
    "Share of each input in the average; 1/N each if not given.",
    low=0.0,
    high=1.0,
    per_input=True,
)
WEIGHT = Knob(
    "weight",
    "float",
    1.0,
    "Factor on each input's difference from the base; negative to subtract it.",
    low=-0.5,
    high=2.0,
    per_input=True,
)
LAMBDA = Knob(
    "lambda",
    "float",
    1.0,
    "Factor on the merged difference before it is added to the base.",
    low=0.1,
    high=2.5,
)
NORMALIZE = Knob(
    "normalize",
    "choice",
    False,
    "Divide by the sum of the weights.",
    choices=(False, True),
)
NORMALIZE_AGREEING = replace(
    NORMALIZE, help="Divide every entry by the sum of the weights that agree on it."
)
TRIM_DENSITY = Knob(
    "density",
    "float",
    0.2,
    "Part of each input's differences kept, largest first.",
    low=0.05,
    high=1.0,
    per_input=True,
    grid=0.01,
    lowest=0.0,
    highest=1.0,
)
MASK_DENSITY = Knob(
    "density",
    "float",
    0.5,
    "Probability that an entry of an input's difference is kept.",
    low=0.05,
    high=1.0,
    per_input=True,
    log=True,
    lowest=1e-6,
    highest=1.0,
)
CONSENSUS = Knob(
    "consensus",
    "choice",
    "sum",
    "How the sign of an entry is elected: by the weighted sum, or one vote per input.",
    choices=("sum", "count"),
)
ZERO_RULE = Knob(
    "zero_rule",
    "choice",
    "plus",
    "Sign where the election is a draw: plus, or the majority of the tensor's signs.",
    choices=("plus", "majority"),
)
RESCALE = Knob(
    "rescale",
    "choice",
    "inverse",
    "Kept entries are divided by the density, scaled to keep the L1 norm, or left.",
    choices=("inverse", "l1", "none"),
)
UNIT = Knob(
    "unit",
    "choice",
    "element",
    "What is kept or dropped as one: each entry, or each input feature (column).",
    choices=("element", "column"),
)
SEED = Knob(
    "seed",
    "int",
    0,
    "Seed of the random masks.",
    low=0,
    high=2**31 - 1,
    searchable=False,
    lowest=0,
)
KEEP_NORM = Knob(
    "rescale",
    "choice",
    "none",
    "Kept differences are left as they are, or scaled to keep the L1 norm.",
    choices=("none", "l1"),
)
ROUNDING = Knob(
    "rounding",
    "choice",
    "safe",
    "How many entries a density keeps: floor(d * n) safe from rounding, or int(d * n).",
    choices=("safe", "int"),
    searchable=False,  # one entry more or less
)


def only_with(knob: Knob, **choices: tuple[Scalar, ...]) -> Knob:
    """Return the knob as one that only means something with these choices."""
    return replace(knob, only_with=tuple(choices.items()))
