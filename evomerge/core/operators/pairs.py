"""Operators that bring parts of one model into another, as data."""

from evomerge.core.operators.catalogue import Knob, Operator
from evomerge.core.operators.knobs import LINEAR_VECTORS

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
        needs_base=True,
        takes_base=True,
        n_inputs=1,
        policies=LINEAR_VECTORS,
        share="half",
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
        needs_base=True,
        takes_base=True,
        n_inputs=1,
        policies=LINEAR_VECTORS,
        share="half",
    ),
)
