"""Operators that go along arcs, as data."""

from dataclasses import replace

from evomerge.core.catalogue import Knob, Operator
from evomerge.core.operators.knobs import LINEAR_VECTORS, SHARE

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

SPHERICAL = (
    Operator(
        "slerp",
        "Spherical interpolation between the weights of two inputs.",
        "Shoemake 1985; mergekit (2403.13257)",
        (_T,),
        n_inputs=2,
        policies=LINEAR_VECTORS,
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
        takes_base=True,
        n_inputs=2,
        either=("t", "weight"),
        policies=LINEAR_VECTORS,
    ),
)
